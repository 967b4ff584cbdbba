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
            Subject::Path { source, path } => (source.as_ref(), path.as_ref()),
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
        URL_SAFE_NO_PAD.encode(self.digest(fields))
    }

    /// Whether a text is the signature of these fields under this key.
    pub fn verifies(&self, fields: &NativeFields<'_>, given: &str) -> bool {
        equal::<_, { Scheme::NATIVE_LENGTH }>(&URL_SAFE_NO_PAD, &self.digest(fields), given)
    }

    /// What another key follows from; `label` begins like nothing that is signed.
    pub fn derive(&self, label: &[u8]) -> [u8; 32] {
        self.0.clone().chain_update(label).finalize().into_bytes().into()
    }

    fn digest(&self, fields: &NativeFields<'_>) -> [u8; 32] {
        let mut mac = self.0.clone();
        fields.feed(&mut mac);
        mac.finalize().into_bytes().into()
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
        URL_SAFE.encode(self.digest(id, filter_spec))
    }

    /// Whether a text is the signature of this id, as written, and this spec.
    pub fn verifies(&self, id: &str, filter_spec: &str, given: &str) -> bool {
        equal::<_, { Scheme::WAGTAIL_LENGTH }>(&URL_SAFE, &self.digest(id, filter_spec), given)
    }

    /// As [`NativeMac::derive`].
    pub fn derive(&self, label: &[u8]) -> [u8; 20] {
        self.0.clone().chain_update(label).finalize().into_bytes().into()
    }

    fn digest(&self, id: &str, filter_spec: &str) -> [u8; 20] {
        let mut mac = self.0.clone();
        for part in [id, "/", filter_spec, "/"] {
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

fn new_mac<M: hmac::KeyInit>(key: &[u8]) -> M {
    // RFC 2104 defines HMAC for keys of any length; the crate's error cannot occur.
    M::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"))
}

/// Compares texts, not decoded bytes: base64 of 20 or 32 bytes leaves spare bits, and only the canonical spelling passes.
/// `LENGTH` is that of the text of such a digest.
fn equal<E: base64::Engine, const LENGTH: usize>(engine: &E, digest: &[u8], given: &str) -> bool {
    let mut expected = [0; LENGTH];
    let whole = engine.encode_slice(digest, &mut expected) == Ok(LENGTH);
    whole & bool::from(expected.ct_eq(given.as_bytes()))
}
