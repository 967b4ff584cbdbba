//! The vocabulary every other room speaks: images, versions, sizes, paths and keys. No I/O, no async.

pub mod digest;
pub mod document;
pub mod format;
pub mod geometry;
pub mod image;
pub mod key;
pub mod media_path;
pub mod network;
pub mod remote_url;
pub mod url_pattern;

pub use digest::{PartsDigest, hex};
pub use document::DocumentSize;
pub use format::{Animation, ImageFormat};
pub use geometry::{FocalPoint, PixelRect, Place, Size};
pub use image::{EntityTag, ImageId, Orientation, SourceFacts, SourceImage, SourceRef, SourceVersion};
pub use key::{Generation, RenditionKey, RenditionName, SourceKey};
pub use media_path::MediaPath;
pub use network::Network;
pub use remote_url::RemoteUrl;
pub use url_pattern::UrlPattern;
