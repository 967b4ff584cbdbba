//! `[render]` and `[watermarks]`: how renditions are made.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use super::{Bytes, WagtailVersion, values};
use crate::{
    model::{Animation, ImageFormat, Place},
    spec::Quality,
};

/// `[render]`: the workers and their bounds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RenderConfig {
    /// Worker processes; 0 means one for each core.
    pub workers: usize,
    /// Jobs that may wait for a worker; the next one is answered 503.
    pub queue_depth: usize,
    /// Bytes that all renders together may hold.
    pub memory_budget: Bytes,
    /// From the request to the rendition, waiting included.
    pub deadline_seconds: f64,
    /// Largest source file.
    pub max_source_bytes: Bytes,
    /// Largest source: width x height x frames.
    pub max_source_pixels: u64,
    /// Longest side of a source.
    pub max_source_side: u32,
    /// Largest rendition: width x height.
    pub max_output_pixels: u64,
    /// JPEG sources of up to so many pixels are always decoded in full.
    pub full_decode_pixels: u64,
    /// Whose defaults the next five have: those of this Wagtail release.
    pub wagtail_version: WagtailVersion,
    /// 76 in Wagtail 8; 85 before 7.3.
    pub jpeg_quality: Option<Quality>,
    /// Wagtail writes progressive: smaller by a few percent, slower to make.
    pub jpeg_progressive: bool,
    /// 80 in Wagtail 8.
    pub webp_quality: Option<Quality>,
    /// 61 in Wagtail 8; 80 before 7.3.
    pub avif_quality: Option<Quality>,
    /// The format of a spec without `format-`, by the source's: as Wagtail's `WAGTAILIMAGES_FORMAT_CONVERSIONS`, these are
    /// added to the release's own.
    pub format_conversions: BTreeMap<ImageFormat, ImageFormat>,
    /// Whether animations stay animated where the format can be; a Wagtail without Wand takes the first frame.
    #[serde(deserialize_with = "values::one_of")]
    pub animation: Animation,
    /// Jobs after which a worker is replaced by a fresh one.
    pub recycle_after_jobs: u32,
}

impl Default for RenderConfig {
    fn default() -> Self {
        Self {
            workers: 0,
            queue_depth: 64,
            memory_budget: Bytes(512 << 20),
            deadline_seconds: 20.0,
            max_source_bytes: Bytes(64 << 20),
            max_source_pixels: 100_000_000,
            max_source_side: 65_535,
            max_output_pixels: 40_000_000,
            full_decode_pixels: 2_000_000,
            wagtail_version: WagtailVersion::LATEST,
            jpeg_quality: None,
            jpeg_progressive: false,
            webp_quality: None,
            avif_quality: None,
            format_conversions: BTreeMap::new(),
            animation: Animation::Keep,
            recycle_after_jobs: 1000,
        }
    }
}

/// A release's quality; its constants are in range.
fn quality(value: u8) -> Quality {
    Quality::try_from(value).unwrap_or_else(|_| unreachable!("a default quality is at most 100"))
}

impl RenderConfig {
    /// The JPEG quality of a spec that names none.
    pub fn effective_jpeg_quality(&self) -> Quality {
        self.jpeg_quality.unwrap_or_else(|| quality(self.wagtail_version.jpeg_quality()))
    }

    /// The WebP quality of a spec that names none.
    pub fn effective_webp_quality(&self) -> Quality {
        self.webp_quality.unwrap_or_else(|| quality(self.wagtail_version.webp_quality()))
    }

    /// The AVIF quality of a spec that names none.
    pub fn effective_avif_quality(&self) -> Quality {
        self.avif_quality.unwrap_or_else(|| quality(self.wagtail_version.avif_quality()))
    }

    /// The format of a spec without `format-`, by the source's.
    pub fn effective_conversions(&self) -> BTreeMap<ImageFormat, ImageFormat> {
        let mut conversions = self.wagtail_version.conversions();
        conversions.extend(&self.format_conversions);
        conversions
    }
}

/// `[watermarks.NAME]`: a picture laid on top of renditions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatermarkConfig {
    /// A picture in any format that is read, best a PNG with transparency.
    pub file: PathBuf,
    /// One of nine: `top-left`, `top` ... `bottom-right`.
    #[serde(default)]
    pub place: Place,
    /// How much of it is seen, 0 to 100.
    #[serde(default = "WatermarkConfig::opacity")]
    pub opacity_percent: u8,
    /// Its width as a share of the rendition's, 1 to 100.
    #[serde(default = "WatermarkConfig::width")]
    pub width_percent: u8,
    /// Its distance from the edges as a share of the rendition's shorter side, 0 to 49.
    #[serde(default = "WatermarkConfig::margin")]
    pub margin_percent: u8,
}

impl WatermarkConfig {
    fn opacity() -> u8 {
        60
    }

    fn width() -> u8 {
        25
    }

    fn margin() -> u8 {
        3
    }
}
