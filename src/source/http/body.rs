//! The body of an answer, into a file: no longer, no slower, and nothing else than we take.

use std::{fs::File, io, time::Duration};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
    time::{Instant, timeout_at},
};
use url::Url;

use super::{Trouble, about};
use crate::{
    model::ImageFormat,
    remote::deepest,
    source::{Originals, SourceError},
};

/// The stretch of time that the rate is taken over.
const STRETCH: Duration = Duration::from_secs(5);
/// First bytes that tell a picture: as many as the longest beginning of an SVG document that we know as one.
const HEAD_BYTES: usize = 1024;

/// How much of a body is taken, and how slowly.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Longest file.
    pub max_bytes: u64,
    /// Bytes a second, over each [`STRETCH`].
    pub min_rate: u64,
}

/// What came.
pub struct Received {
    /// Its bytes, from the start.
    pub file: File,
    /// How many.
    pub bytes: u64,
    /// SHA-256 of them, where it was asked for.
    pub digest: Option<[u8; 32]>,
}

/// Why a body was given up.
pub enum BodyError {
    TooLong(u64),
    TooSlow(u64),
    NotAnImage,
    Broken(String),
    /// The trouble is ours.
    Disk(io::Error),
}

impl BodyError {
    pub fn about(self, url: &Url, originals: &Originals) -> Trouble {
        match self {
            Self::TooLong(most) => Trouble::lasting(SourceError::TooLong(most)),
            Self::TooSlow(rate) => {
                let says = format!("slower than {rate} bytes a second for {} s", STRETCH.as_secs());
                Trouble::passing(SourceError::TimedOut(about(url, says)))
            }
            Self::NotAnImage => {
                Trouble::lasting(SourceError::NotAnImage(about(url, "it begins like no picture that is read")))
            }
            Self::Broken(why) => Trouble::passing(SourceError::Failed(about(url, format!("it broke off: {why}")))),
            Self::Disk(error) => Trouble::lasting(originals.unavailable(&error)),
        }
    }
}

/// Takes a body to its end. A length that was declared is kept by the protocol's own code: less than that is broken off.
pub async fn receive(mut body: Incoming, file: File, bounds: Bounds, with_digest: bool) -> Result<Received, BodyError> {
    let mut file = tokio::fs::File::from_std(file);
    let mut digest = with_digest.then(Sha256::new);
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let mut is_picture = false;
    let (mut bytes, mut in_stretch) = (0_u64, 0_u64);
    let least = bounds.min_rate.saturating_mul(STRETCH.as_secs());
    let mut end = Instant::now() + STRETCH;
    loop {
        let frame = match timeout_at(end, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(BodyError::Broken(deepest(&error))),
            Err(_) if in_stretch < least => return Err(BodyError::TooSlow(bounds.min_rate)),
            Err(_) => {
                (in_stretch, end) = (0, Instant::now() + STRETCH);
                continue;
            }
        };
        // Trailers say nothing to us.
        let Ok(data) = frame.into_data() else { continue };
        in_stretch += data.len() as u64;
        bytes += data.len() as u64;
        if bytes > bounds.max_bytes {
            return Err(BodyError::TooLong(bounds.max_bytes));
        }
        if !is_picture {
            head.extend_from_slice(&data[..data.len().min(HEAD_BYTES - head.len())]);
            is_picture = ImageFormat::detect(&head).is_some();
            if !is_picture && head.len() == HEAD_BYTES {
                return Err(BodyError::NotAnImage);
            }
        }
        if let Some(digest) = &mut digest {
            digest.update(&data);
        }
        file.write_all(&data).await.map_err(BodyError::Disk)?;
        if Instant::now() >= end {
            // Frames that are always ready never let the timeout speak.
            if in_stretch < least {
                return Err(BodyError::TooSlow(bounds.min_rate));
            }
            (in_stretch, end) = (0, Instant::now() + STRETCH);
        }
    }
    if !is_picture {
        return Err(BodyError::NotAnImage);
    }
    file.flush().await.map_err(BodyError::Disk)?;
    file.rewind().await.map_err(BodyError::Disk)?;
    let digest = digest.map(|digest| digest.finalize().into());
    Ok(Received { file: file.into_std().await, bytes, digest })
}
