//! [`FilterSpec`] to its canonical text.

use std::fmt;

use super::{FilterSpec, Operation, Rgb};

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
        spec::{Closeness, FilterSpec, Operation, OutputFormat, Quality, Rgb},
    };
    use proptest::prelude::*;

    fn operation() -> impl Strategy<Value = Operation> {
        let length = 0u64..(1 << 53);
        let side = 1u64..(1 << 53);
        let quality = (0u64..=100).prop_map(|q| Quality::new(q).expect("in range"));
        prop_oneof![
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
            any::<(u8, u8, u8)>().prop_map(|(red, green, blue)| Operation::BackgroundColor(Rgb { red, green, blue })),
        ]
    }

    proptest! {
        #[test]
        fn parse_undoes_print(operations in prop::collection::vec(operation(), 1..5)) {
            prop_assume!(operations.iter().any(|o| *o != Operation::PreserveSvg));
            let spec = FilterSpec { operations };
            prop_assert_eq!(FilterSpec::parse(&spec.canonical()), Ok(spec));
        }
    }
}
