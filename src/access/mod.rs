//! May this URL be served?
//!
//! Cheap before costly, proof before look-up: the raw target is taken apart, the signature and the expiry are checked, then the
//! token or the site's word where one is wanted, and nothing is looked up, parsed or opened before that. [`Verifier`] is the
//! only maker of [`SignedRequest`] and of [`VerifiedRequest`].

mod forward;
mod keys;
mod link;
mod links;
mod ops_token;
mod page;
mod proof;
mod refusal;
mod route;
mod scope;
mod signature;
pub mod token;
mod url;
mod verifier;

pub use forward::SiteRefusal;
pub use keys::{KeyError, KeyRing, NativeKey, WagtailKey, fresh_secret};
pub use link::{Known, Link};
pub use links::{LinkError, Links, Renditions, Wanted, parse_life};
pub use ops_token::OpsToken;
pub use page::{PageDoor, PageSession};
pub use proof::{ImageRef, SignedRequest, VerifiedRequest};
pub use refusal::{Refusal, VerifyError};
pub use route::{Route, RouteTable};
pub use scope::Scope;
pub use signature::Scheme;
pub use url::{SignedUrl, Subject, UrlError, UrlParts};
pub use verifier::{Bearer, Verifier};

/// The end of the year 9999, in Unix seconds: later than any link or token has to work, and a number that every client's clock can
/// hold. What is beyond is no date but a mistake.
const LAST_SECOND: u64 = 253_402_300_799;
