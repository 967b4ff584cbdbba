//! May this URL be served?
//!
//! Cheap before costly, proof before look-up: the raw target is taken apart, the signature and the expiry are checked, and
//! nothing is looked up, parsed or opened before that. [`Verifier::verify`] is the only maker of [`VerifiedRequest`].

mod keys;
mod links;
mod ops_token;
mod route;
mod signature;
mod url;
mod verifier;

pub use keys::{KeyError, KeyRing, NativeKey, WagtailKey, fresh_secret};
pub use links::{LinkError, Links, Renditions, Wanted, parse_life};
pub use ops_token::OpsToken;
pub use route::{Route, RouteTable};
pub use signature::Scheme;
pub use url::{SignedUrl, Subject, UrlError, UrlParts};
pub use verifier::{ImageRef, Link, Refusal, VerifiedRequest, Verifier, VerifyError};
