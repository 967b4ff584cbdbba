//! HMAC signatures over the decoded fields of a URL, and their constant-time comparison.

use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::url::Subject;

/// Which of the two signature schemes a text is in. Its length tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HMAC-SHA1 over `{id}/{filter_spec}/`, URL-safe base64 with padding (`wagtail.images.utils.generate_signature`).
    Wagtail,
    /// HMAC-SHA256 over the labelled fields, URL-safe base64 without padding.
    Native,
}

impl Scheme {
    /// Characters of a Wagtail signature: 20 bytes in base64 with padding.
    const WAGTAIL_LENGTH: usize = 28;
    /// Characters of a native signature: 32 bytes in base64 without padding.
    const NATIVE_LENGTH: usize = 43;

    /// The scheme of a signature text, if it can be one at all.
    pub fn of(signature: &str) -> Option<Self> {
        match signature.len() {
            Self::WAGTAIL_LENGTH => Some(Self::Wagtail),
            Self::NATIVE_LENGTH => Some(Self::Native),
            _ => None,
        }
    }

    /// The name used in `sign --scheme` and `explain`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wagtail => "wagtail",
            Self::Native => "native",
        }
    }
}

/// The fields that a native signature covers, decoded. None may hold a control character, so that the line breaks between
/// them are unambiguous; [`super::url`] sees to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NativeFields<'a> {
    pub subject: &'a Subject<'a>,
    pub filter_spec: &'a str,
    pub expires: Option<&'a str>,
    pub download: Option<&'a str>,
}

impl NativeFields<'_> {
    fn feed(&self, mac: &mut Hmac<Sha256>) {
        let (subject, path) = match self.subject {
            Subject::Id(id) => (id.as_ref(), ""),
            Subject::Path { source, path } => (source.as_ref(), path.as_str()),
        };
        mac.update(b"sendimage-v1\n");
        for field in [subject, self.filter_spec, path, self.expires.unwrap_or(""), self.download.unwrap_or("")] {
            mac.update(field.as_bytes());
            mac.update(b"\n");
        }
    }
}

/// A MAC with its key already absorbed, so that a request pays only for its own text.
#[derive(Clone)]
pub(super) struct NativeMac(Hmac<Sha256>);

impl NativeMac {
    pub fn new(key: &[u8]) -> Self {
        Self(new_mac(key))
    }

    /// The one text that is a signature of these fields under this key.
    pub fn sign(&self, fields: &NativeFields<'_>) -> String {
        let mut mac = self.0.clone();
        fields.feed(&mut mac);
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }
}

/// As [`NativeMac`], for Wagtail's scheme.
#[derive(Clone)]
pub(super) struct WagtailMac(Hmac<Sha1>);

impl WagtailMac {
    pub fn new(key: &[u8]) -> Self {
        Self(new_mac(key))
    }

    /// The one text that is a signature of this id, as written, and this spec.
    pub fn sign(&self, id: &str, filter_spec: &str) -> String {
        let mut mac = self.0.clone();
        for part in [id, "/", filter_spec, "/"] {
            mac.update(part.as_bytes());
        }
        URL_SAFE.encode(mac.finalize().into_bytes())
    }
}

fn new_mac<M: hmac::KeyInit>(key: &[u8]) -> M {
    // RFC 2104 defines HMAC for keys of any length; the crate's error cannot occur.
    M::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"))
}

/// Compares texts, not decoded bytes: base64 of 20 or 32 bytes leaves spare bits, and only the canonical spelling passes.
pub(super) fn equal(expected: &str, given: &str) -> bool {
    expected.as_bytes().ct_eq(given.as_bytes()).into()
}
