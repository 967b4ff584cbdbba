//! `X-Sendfile`: Apache's mod_xsendfile or lighttpd streams the file.
//!
//! Both keep all other headers of an answer, so this one is complete. mod_xsendfile acts on a 200 alone; lighttpd keeps any
//! status. Both see to ranges and conditions, with the validators that they are given: the entity tag that mod_xsendfile makes
//! where there is none is `"0"` for every file, and a browser that has the picture before would keep it for ever.

use std::path::Path;

use hyper::{
    Response, StatusCode,
    header::{ETAG, HeaderName, HeaderValue, InvalidHeaderValue},
};

use super::{Body, ImageHeaders, OffloadError, Served};

const X_SENDFILE: HeaderName = HeaderName::from_static("x-sendfile");

/// The one place that sets the header.
pub(super) fn respond(root: &Path, added: &ImageHeaders, served: &Served) -> Result<Response<Body>, OffloadError> {
    let mut response = served.empty(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(X_SENDFILE, absolute(root, &served.stored.path)?);
    headers.insert(ETAG, served.etag()?);
    served.describe(headers);
    served.cache(headers)?;
    added.secure(headers);
    Ok(response)
}

/// The file's path, byte for byte but for `%`. lighttpd decodes what it gets, and so do builds of mod_xsendfile after 0.12; 0.12
/// itself does not, which is why the config for Apache is not printed for a root with a `%` in it.
fn absolute(root: &Path, path: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let whole = root.join(path);
    let mut bytes = Vec::with_capacity(whole.as_os_str().len());
    for byte in whole.as_os_str().as_encoded_bytes() {
        match byte {
            b'%' => bytes.extend_from_slice(b"%25"),
            byte => bytes.push(*byte),
        }
    }
    HeaderValue::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_sent_as_it_is_but_for_percent_signs() {
        for (root, expected) in [
            ("/srv/renditions", "/srv/renditions/v/a.webp"),
            ("/srv/renditions/", "/srv/renditions/v/a.webp"),
            ("/srv/a b%41é", "/srv/a b%2541é/v/a.webp"),
        ] {
            let value = absolute(Path::new(root), "v/a.webp").unwrap();
            assert_eq!(value.as_bytes(), expected.as_bytes());
        }
        assert!(absolute(Path::new("/srv/a\nb"), "a").is_err());
    }
}
