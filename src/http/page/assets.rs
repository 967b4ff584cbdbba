//! The page itself: files of this binary, written by hand, that ask for nothing elsewhere.

use std::sync::LazyLock;

use hyper::{
    HeaderMap, Response, StatusCode,
    header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH},
};
use sha2::{Digest as _, Sha256};

use crate::{http::message::fixed, model::hex, offload::Body};

const PAGE: &str = include_str!("assets/page.html");
const LOGIN: &str = include_str!("assets/login.html");
const HTML: &str = "text/html; charset=utf-8";

/// A file that anybody may have: there is nothing in it but what is public with the source code.
pub(super) struct Asset {
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
    etag: LazyLock<HeaderValue>,
}

macro_rules! assets {
    ($($path:literal: $media_type:literal),+) => {
        static ASSETS: [Asset; [$($path),+].len()] = [$(Asset {
            path: concat!("/", $path),
            media_type: $media_type,
            text: include_str!(concat!("assets/", $path)),
            etag: LazyLock::new(|| etag(include_str!(concat!("assets/", $path)))),
        }),+];
    };
}

assets! {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "service.js": "text/javascript; charset=utf-8",
    "images.js": "text/javascript; charset=utf-8",
    "look.js": "text/javascript; charset=utf-8",
    "link.js": "text/javascript; charset=utf-8",
    "spec.js": "text/javascript; charset=utf-8",
    "snippet.js": "text/javascript; charset=utf-8",
    "focus.js": "text/javascript; charset=utf-8",
    "status.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml"
}

fn etag(text: &str) -> HeaderValue {
    let digest = Sha256::digest(text);
    HeaderValue::try_from(format!("\"{}\"", hex(&digest[..8]))).unwrap_or_else(|_| unreachable!("hexadecimal digits"))
}

/// The asset of a path.
pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

impl Asset {
    /// The file, or 304 for whoever has it.
    pub fn response(&self, headers: &HeaderMap) -> Response<Body> {
        let known = headers.get(IF_NONE_MATCH) == Some(&*self.etag);
        let mut response = match known {
            true => fixed(StatusCode::NOT_MODIFIED, self.media_type, ""),
            false => fixed(StatusCode::OK, self.media_type, self.text),
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, self.etag.clone());
        // Kept, and asked about each time: after an upgrade page and script belong together.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// The page, for whoever is logged in.
pub(super) fn page() -> Response<Body> {
    fixed(StatusCode::OK, HTML, PAGE)
}

/// The login form with its token, which is letters, digits, `-`, `_` and `.`, and one of our sentences.
pub(super) fn login(token: &str, sentence: &'static str) -> String {
    LOGIN.replace("{token}", token).replace("{sentence}", sentence)
}
