//! [`FilterSpec`] to its canonical text.

use std::fmt;

use super::{FilterSpec, Operation, Rgb, Turn};

impl FilterSpec {
    /// The one spelling of this spec: `FilterSpec::parse(&spec.canonical()) == Ok(spec)`.
    pub fn canonical(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for FilterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, operation) in self.operations.iter().enumerate() {
            if index > 0 {
                f.write_str("|")?;
            }
            operation.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Original => f.write_str("original"),
            Self::Width(width) => write!(f, "width-{width}"),
            Self::Height(height) => write!(f, "height-{height}"),
            Self::Max(width, height) => write!(f, "max-{width}x{height}"),
            Self::Min(width, height) => write!(f, "min-{width}x{height}"),
            Self::Scale(percent) => write!(f, "scale-{percent}"),
            Self::Fill { width, height, closeness } => {
                write!(f, "fill-{width}x{height}")?;
                match closeness.percent() {
                    0 => Ok(()),
                    percent => write!(f, "-c{percent}"),
                }
            }
            Self::Format(output) => {
                write!(f, "format-{}{}", output.format, if output.lossless { "-lossless" } else { "" })
            }
            Self::JpegQuality(quality) => write!(f, "jpegquality-{}", quality.get()),
            Self::WebpQuality(quality) => write!(f, "webpquality-{}", quality.get()),
            Self::AvifQuality(quality) => write!(f, "avifquality-{}", quality.get()),
            Self::BackgroundColor(color) => write!(f, "bgcolor-{color}"),
            Self::PreserveSvg => f.write_str("preserve-svg"),
            Self::FormatAuto(_) => f.write_str("format-auto"),
            Self::Turn(turn) => {
                let named = Turn::NAMES.iter().find(|(_, other)| other == turn);
                f.write_str(named.map_or("", |(name, _)| name))
            }
            Self::Crop { left, top, width, height } => write!(f, "crop-{left},{top},{width},{height}"),
            Self::Pad { width, height, color } => {
                write!(f, "pad-{width}x{height}")?;
                color.map_or(Ok(()), |color| write!(f, "-{color}"))
            }
            Self::Trim(tolerance) => write!(f, "trim-{tolerance}"),
            Self::Smart => f.write_str("smart"),
            Self::Blur(sigma) => write!(f, "blur-{}", sigma.pixels()),
            Self::Sharpen(sigma) => write!(f, "sharpen-{}", sigma.pixels()),
            Self::Grayscale => f.write_str("grayscale"),
            Self::Invert => f.write_str("invert"),
            Self::Watermark(name) => write!(f, "watermark-{}", name.as_str()),
            Self::Dpr(dpr) => write!(f, "dpr-{}", dpr.factor()),
            Self::KeepMeta => f.write_str("keep-meta"),
        }
    }
}

impl fmt::Display for Rgb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}", self.red, self.green, self.blue)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        model::ImageFormat,
        spec::{
            Accepted, Closeness, Dpr, FilterSpec, MAX_BYTES, Operation, OutputFormat, Quality, Rgb, Sigma, Turn,
            WatermarkName,
        },
    };
    use proptest::prelude::*;

    fn operation() -> impl Strategy<Value = Operation> {
        let length = 0u64..(1 << 53);
        let side = 1u64..(1 << 53);
        let quality = (0u64..=100).prop_map(|q| Quality::new(q).expect("in range"));
        let color = any::<(u8, u8, u8)>().prop_map(|(red, green, blue)| Rgb { red, green, blue });
        let sigma = (30u32..=10_000).prop_map(|hundredths| Sigma::try_from(hundredths).expect("in range"));
        let ours = prop_oneof![
            Just(Operation::FormatAuto(Accepted::default())),
            (0usize..5).prop_map(|index| Operation::Turn(Turn::NAMES[index].1)),
            (length.clone(), length.clone(), side.clone(), side.clone())
                .prop_map(|(left, top, width, height)| Operation::Crop { left, top, width, height }),
            any::<u8>().prop_map(Operation::Trim),
            Just(Operation::Smart),
            sigma.clone().prop_map(Operation::Blur),
            sigma.prop_map(Operation::Sharpen),
            Just(Operation::Grayscale),
            Just(Operation::Invert),
            "[a-zA-Z0-9_-]{1,20}".prop_map(|name| Operation::Watermark(WatermarkName::new(&name).expect("a name"))),
            (100u32..=800).prop_map(|n| Operation::Dpr(Dpr::new(f64::from(n) / 100.0).expect("in range"))),
            Just(Operation::KeepMeta),
        ];
        let wagtails = prop_oneof![
            Just(Operation::Original),
            Just(Operation::PreserveSvg),
            length.clone().prop_map(Operation::Width),
            length.clone().prop_map(Operation::Height),
            (length.clone(), length.clone()).prop_map(|(w, h)| Operation::Max(w, h)),
            (length.clone(), length).prop_map(|(w, h)| Operation::Min(w, h)),
            // Display of a double may be as long as the spec's limit: stay where the text is short.
            (0.0..1e9f64).prop_map(Operation::Scale),
            (side.clone(), side, 0u64..200).prop_map(|(width, height, c)| Operation::Fill {
                width,
                height,
                closeness: Closeness::clamped(c)
            }),
            (any::<bool>(), 0usize..6).prop_map(|(lossless, index)| {
                use ImageFormat::{Avif, Gif, Ico, Jpeg, Png, Webp};
                let format = [Jpeg, Png, Gif, Webp, Avif, Ico][index];
                Operation::Format(OutputFormat { format, lossless: lossless && matches!(format, Webp | Avif) })
            }),
            quality.clone().prop_map(Operation::JpegQuality),
            quality.clone().prop_map(Operation::WebpQuality),
            quality.prop_map(Operation::AvifQuality),
            color.clone().prop_map(Operation::BackgroundColor),
        ];
        prop_oneof![wagtails, ours]
    }

    /// At most one pad, and nothing that changes the size after it.
    fn specs() -> impl Strategy<Value = FilterSpec> {
        let side = 1u64..(1 << 53);
        let color = any::<(u8, u8, u8)>().prop_map(|(red, green, blue)| Rgb { red, green, blue });
        let pad = (side.clone(), side, prop::option::of(color)).prop_map(|(width, height, color)| Operation::Pad {
            width,
            height,
            color,
        });
        (prop::collection::vec(operation(), 1..5), prop::option::of(pad)).prop_map(|(mut operations, pad)| {
            operations.extend(pad);
            FilterSpec { operations }
        })
    }

    proptest! {
        #[test]
        fn parse_undoes_print(spec in specs()) {
            prop_assume!(spec.operations.iter().any(|o| *o != Operation::PreserveSvg));
            prop_assume!(spec.canonical().len() <= MAX_BYTES);
            prop_assert_eq!(FilterSpec::parse(&spec.canonical()), Ok(spec));
        }
    }
}
