//! Text to [`FilterSpec`]; every error carries the byte offset of what it is about.

use thiserror::Error;

use super::{
    Accepted, Closeness, Dpr, FilterSpec, Operation, OutputFormat, Quality, Rgb, Sigma, Turn, WatermarkName, number,
};
use crate::model::ImageFormat;

/// Longest spec accepted, in bytes. Wagtail's own column for it holds 255 characters.
pub const MAX_BYTES: usize = 255;
/// Larger percentages are clamped to this; no image survives it, and its canonical text stays short.
const LARGEST_PERCENTAGE: f64 = 1e9;
/// Most operations in one spec.
pub const MAX_OPERATIONS: usize = 16;

/// Why a text is not a filter spec, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("at offset {offset}: {problem}")]
pub struct SpecError {
    /// Byte offset in the text as signed.
    pub offset: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a filter spec. The offending text is never part of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// Over [`MAX_BYTES`].
    #[error("the filter spec is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Over [`MAX_OPERATIONS`].
    #[error("more than {MAX_OPERATIONS} operations")]
    TooManyOperations,
    /// No such operation.
    #[error("no such operation")]
    UnknownOperation,
    /// The operation needs an argument.
    #[error("an argument is missing")]
    MissingArgument,
    /// The operation takes fewer arguments.
    #[error("one argument too many")]
    ExtraArgument,
    /// Not a whole number.
    #[error("not a whole number")]
    NotWhole,
    /// Not a finite number.
    #[error("not a finite number")]
    NotFinite,
    /// Not `WIDTHxHEIGHT`.
    #[error("not WIDTHxHEIGHT")]
    NotSize,
    /// A `fill` to nothing.
    #[error("a fill needs a width and a height of at least 1")]
    ZeroSize,
    /// A part of `fill` that is not `cN`.
    #[error("not a closeness (cN)")]
    NotCloseness,
    /// Quality above 100.
    #[error("a quality is at most 100")]
    QualityOutOfRange,
    /// No such output format.
    #[error("the format must be one of jpeg, png, webp, avif, gif, ico, auto")]
    UnknownFormat,
    /// HEIC is read, never written.
    #[error("HEIC is never written; webp and avif are smaller and seen everywhere")]
    HeicOutput,
    /// Not three or six hexadecimal digits.
    #[error("a colour is three or six hexadecimal digits")]
    NotColor,
    /// Not a quarter, half or three quarters of a turn.
    #[error("a rotation is 90, 180 or 270 degrees")]
    NotRotation,
    /// Neither `h` nor `v`.
    #[error("a flip is h (left to right) or v (top to bottom)")]
    NotFlip,
    /// Not four numbers.
    #[error("a crop is X,Y,WIDTH,HEIGHT in pixels, with a width and a height of at least 1")]
    NotCrop,
    /// A canvas of nothing.
    #[error("a pad needs a width and a height of at least 1")]
    ZeroPad,
    /// Tolerance above 255.
    #[error("a trim's tolerance is a number from 0 to 255")]
    NotTolerance,
    /// Deviation out of range.
    #[error("a standard deviation is a number from 0.3 to 100 pixels")]
    NotSigma,
    /// Ratio out of range.
    #[error("a device pixel ratio is a number from 1 to 8")]
    NotDpr,
    /// Not a name that a section could have.
    #[error("a watermark's name has 1 to 64 letters, digits, hyphens and underscores")]
    NotWatermark,
    /// A size asked for after `pad` settled it.
    #[error("pad settles the size: crops, turns and sizes stand before it, and it stands once")]
    AfterPad,
    /// `preserve-svg` alone says nothing about the output.
    #[error("preserve-svg needs another operation beside it")]
    OnlyPreserveSvg,
}

impl FilterSpec {
    /// Parses a filter spec.
    ///
    /// # Errors
    /// The first problem from the left, with its offset.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        if text.len() > MAX_BYTES {
            // Where a letter begins: whoever marks the place cuts the text there.
            return Err(SpecError { offset: text.floor_char_boundary(MAX_BYTES), problem: Problem::TooLong });
        }
        let mut operations = Vec::new();
        let mut offset = 0;
        for part in text.split('|') {
            if operations.len() == MAX_OPERATIONS {
                return Err(SpecError { offset, problem: Problem::TooManyOperations });
            }
            let operation = Arguments::new(part, offset).operation()?;
            let padded = operations.iter().any(|before| matches!(before, Operation::Pad { .. }));
            if padded && operation.decides_size() {
                return Err(SpecError { offset, problem: Problem::AfterPad });
            }
            operations.push(operation);
            offset += part.len() + 1;
        }
        if operations.iter().all(|operation| *operation == Operation::PreserveSvg) {
            return Err(SpecError { offset: 0, problem: Problem::OnlyPreserveSvg });
        }
        Ok(Self { operations })
    }
}

/// One `|`-separated part, taken apart at its hyphens.
struct Arguments<'a> {
    text: &'a str,
    start: usize,
    rest: Option<&'a str>,
}

impl<'a> Arguments<'a> {
    fn new(text: &'a str, start: usize) -> Self {
        Self { text, start, rest: Some(text) }
    }

    /// Offset of the first byte not yet taken.
    fn offset(&self) -> usize {
        self.start + self.text.len() - self.rest.map_or(0, str::len)
    }

    fn next(&mut self) -> Option<(&'a str, usize)> {
        let offset = self.offset();
        let rest = self.rest?;
        match rest.split_once('-') {
            Some((argument, rest)) => {
                self.rest = Some(rest);
                Some((argument, offset))
            }
            None => {
                self.rest = None;
                Some((rest, offset))
            }
        }
    }

    fn required(&mut self) -> Result<(&'a str, usize), SpecError> {
        self.next().ok_or(SpecError { offset: self.offset(), problem: Problem::MissingArgument })
    }

    /// The operation, with nothing left over.
    fn operation(mut self) -> Result<Operation, SpecError> {
        match self.text {
            "preserve-svg" => return Ok(Operation::PreserveSvg),
            "keep-meta" => return Ok(Operation::KeepMeta),
            "format-auto" => return Ok(Operation::FormatAuto(Accepted::default())),
            _ => {}
        }
        let (name, offset) = self.required()?;
        let operation = match name {
            "original" => Operation::Original,
            "width" => Operation::Width(self.whole()?),
            "height" => Operation::Height(self.whole()?),
            "max" => self.size().map(|(width, height)| Operation::Max(width, height))?,
            "min" => self.size().map(|(width, height)| Operation::Min(width, height))?,
            "scale" => Operation::Scale(self.percentage()?),
            "fill" => self.fill()?,
            "format" => Operation::Format(self.format()?),
            "jpegquality" => Operation::JpegQuality(self.quality()?),
            "webpquality" => Operation::WebpQuality(self.quality()?),
            "avifquality" => Operation::AvifQuality(self.quality()?),
            "bgcolor" => Operation::BackgroundColor(self.color()?),
            "rotate" | "flip" => self.turn(name == "flip")?,
            "crop" => self.crop()?,
            "pad" => self.pad()?,
            "trim" => Operation::Trim(self.tolerance()?),
            "smart" => Operation::Smart,
            "blur" => Operation::Blur(self.ranged(Sigma::new, Problem::NotSigma)?),
            "sharpen" => Operation::Sharpen(self.ranged(Sigma::new, Problem::NotSigma)?),
            "grayscale" => Operation::Grayscale,
            "invert" => Operation::Invert,
            "watermark" => self.watermark()?,
            "dpr" => Operation::Dpr(self.ranged(Dpr::new, Problem::NotDpr)?),
            _ => return Err(SpecError { offset, problem: Problem::UnknownOperation }),
        };
        match self.next() {
            None => Ok(operation),
            Some((_, offset)) => Err(SpecError { offset, problem: Problem::ExtraArgument }),
        }
    }

    fn whole(&mut self) -> Result<u64, SpecError> {
        let (text, offset) = self.required()?;
        number::whole(text).ok_or(SpecError { offset, problem: Problem::NotWhole })
    }

    fn quality(&mut self) -> Result<Quality, SpecError> {
        let offset = self.offset();
        Quality::new(self.whole()?).ok_or(SpecError { offset, problem: Problem::QualityOutOfRange })
    }

    fn percentage(&mut self) -> Result<f64, SpecError> {
        let (text, offset) = self.required()?;
        match number::float(text) {
            // Never negative: a hyphen would have split the argument.
            Some(percent) if percent.is_finite() => Ok(percent.min(LARGEST_PERCENTAGE)),
            _ => Err(SpecError { offset, problem: Problem::NotFinite }),
        }
    }

    fn size(&mut self) -> Result<(u64, u64), SpecError> {
        let (text, offset) = self.required()?;
        let (width, height) = text.split_once('x').ok_or(SpecError { offset, problem: Problem::NotSize })?;
        let height_offset = offset + width.len() + 1;
        if height.contains('x') {
            return Err(SpecError { offset, problem: Problem::NotSize });
        }
        Ok((
            number::whole(width).ok_or(SpecError { offset, problem: Problem::NotWhole })?,
            number::whole(height).ok_or(SpecError { offset: height_offset, problem: Problem::NotWhole })?,
        ))
    }

    /// Several closeness parts are allowed; the last one counts.
    fn fill(&mut self) -> Result<Operation, SpecError> {
        let offset = self.offset();
        let (width, height) = self.size()?;
        if width == 0 || height == 0 {
            return Err(SpecError { offset, problem: Problem::ZeroSize });
        }
        let mut closeness = Closeness::default();
        while let Some((part, offset)) = self.next() {
            let percent = part.strip_prefix('c').ok_or(SpecError { offset, problem: Problem::NotCloseness })?;
            let percent = number::whole(percent).ok_or(SpecError { offset: offset + 1, problem: Problem::NotWhole })?;
            closeness = Closeness::clamped(percent);
        }
        Ok(Operation::Fill { width, height, closeness })
    }

    fn turn(&mut self, flip: bool) -> Result<Operation, SpecError> {
        let (_, offset) = self.required()?;
        let problem = if flip { Problem::NotFlip } else { Problem::NotRotation };
        let end = self.text.len() - self.rest.map_or(0, |rest| rest.len() + 1);
        let turn = Turn::NAMES.iter().find(|(name, _)| *name == &self.text[..end]);
        turn.map(|(_, turn)| Operation::Turn(*turn)).ok_or(SpecError { offset, problem })
    }

    fn crop(&mut self) -> Result<Operation, SpecError> {
        let (text, offset) = self.required()?;
        let error = SpecError { offset, problem: Problem::NotCrop };
        let mut numbers = text.split(',').map(digits);
        let mut number = || numbers.next().flatten().ok_or(error.clone());
        let (left, top, width, height) = (number()?, number()?, number()?, number()?);
        match numbers.next() {
            None if width > 0 && height > 0 => Ok(Operation::Crop { left, top, width, height }),
            _ => Err(error),
        }
    }

    fn pad(&mut self) -> Result<Operation, SpecError> {
        let offset = self.offset();
        let (width, height) = self.size()?;
        if width == 0 || height == 0 {
            return Err(SpecError { offset, problem: Problem::ZeroPad });
        }
        let color = if self.rest.is_some() { Some(self.color()?) } else { None };
        Ok(Operation::Pad { width, height, color })
    }

    fn tolerance(&mut self) -> Result<u8, SpecError> {
        let (text, offset) = self.required()?;
        digits(text)
            .and_then(|tolerance| u8::try_from(tolerance).ok())
            .ok_or(SpecError { offset, problem: Problem::NotTolerance })
    }

    /// A decimal number that `new` takes.
    fn ranged<T>(&mut self, new: impl Fn(f64) -> Option<T>, problem: Problem) -> Result<T, SpecError> {
        let (text, offset) = self.required()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number = if plain { text.parse().ok() } else { None };
        number.and_then(new).ok_or(SpecError { offset, problem })
    }

    /// A name may hold hyphens: the rest of the part is it.
    fn watermark(&mut self) -> Result<Operation, SpecError> {
        let offset = self.offset();
        let name = self.rest.take().ok_or(SpecError { offset, problem: Problem::MissingArgument })?;
        let name = WatermarkName::new(name).ok_or(SpecError { offset, problem: Problem::NotWatermark })?;
        Ok(Operation::Watermark(name))
    }

    /// Options other than `lossless` are accepted and mean nothing, as in Wagtail.
    fn format(&mut self) -> Result<OutputFormat, SpecError> {
        let (name, offset) = self.required()?;
        let format = match name {
            "jpeg" => ImageFormat::Jpeg,
            "png" => ImageFormat::Png,
            "gif" => ImageFormat::Gif,
            "webp" => ImageFormat::Webp,
            "avif" => ImageFormat::Avif,
            "ico" => ImageFormat::Ico,
            "heic" => return Err(SpecError { offset, problem: Problem::HeicOutput }),
            _ => return Err(SpecError { offset, problem: Problem::UnknownFormat }),
        };
        let mut lossless = false;
        while let Some((option, _)) = self.next() {
            lossless |= option == "lossless" && matches!(format, ImageFormat::Webp | ImageFormat::Avif);
        }
        Ok(OutputFormat { format, lossless })
    }

    /// Three or six characters, each one or two of them a number of its own.
    fn color(&mut self) -> Result<Rgb, SpecError> {
        let (text, offset) = self.required()?;
        let error = SpecError { offset, problem: Problem::NotColor };
        let characters: Vec<char> = text.chars().collect();
        let (digits, factor) = match characters.len() {
            3 => (1, 17),
            6 => (2, 1),
            _ => return Err(error),
        };
        let mut channels = characters.chunks(digits).map(|chunk| {
            let chunk: String = chunk.iter().collect();
            number::hex(&chunk).map(|value| value * factor)
        });
        let mut channel = || channels.next().flatten().ok_or(error.clone());
        Ok(Rgb { red: channel()?, green: channel()?, blue: channel()? })
    }
}

/// Plain ASCII digits, within what a length may be.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { number::whole(text) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> (usize, Problem) {
        let error = FilterSpec::parse(text).expect_err(text);
        (error.offset, error.problem)
    }

    #[test]
    fn errors_say_where() {
        assert_eq!(error(""), (0, Problem::UnknownOperation));
        assert_eq!(error("width"), (5, Problem::MissingArgument));
        assert_eq!(error("width-"), (6, Problem::NotWhole));
        assert_eq!(error("width-100|"), (10, Problem::UnknownOperation));
        assert_eq!(error("width-100|height-x"), (17, Problem::NotWhole));
        assert_eq!(error("width-100-200"), (10, Problem::ExtraArgument));
        assert_eq!(error("width--5"), (6, Problem::NotWhole));
        assert_eq!(error("max-100"), (4, Problem::NotSize));
        assert_eq!(error("max-1x2x3"), (4, Problem::NotSize));
        assert_eq!(error("max-10xb"), (7, Problem::NotWhole));
        assert_eq!(error("fill-10x0"), (5, Problem::ZeroSize));
        assert_eq!(error("fill-10x10-50"), (11, Problem::NotCloseness));
        assert_eq!(error("rotate-45"), (7, Problem::NotRotation));
        assert_eq!(error("rotate"), (6, Problem::MissingArgument));
        assert_eq!(error("rotate-90-1"), (10, Problem::ExtraArgument));
        assert_eq!(error("flip-x"), (5, Problem::NotFlip));
        assert_eq!(error("width-9|crop-1,2,3"), (13, Problem::NotCrop));
        assert_eq!(error("crop-1,2,3,0"), (5, Problem::NotCrop));
        assert_eq!(error("crop-1,2,3,4,5"), (5, Problem::NotCrop));
        assert_eq!(error("pad-0x3"), (4, Problem::ZeroPad));
        assert_eq!(error("pad-3x3-zz"), (8, Problem::NotColor));
        assert_eq!(error("pad-3x3|grayscale|width-3"), (18, Problem::AfterPad));
        assert_eq!(error("pad-3x3|pad-4x4"), (8, Problem::AfterPad));
        assert_eq!(error("trim-256"), (5, Problem::NotTolerance));
        assert_eq!(error("blur-0"), (5, Problem::NotSigma));
        assert_eq!(error("blur-1e1"), (5, Problem::NotSigma));
        assert_eq!(error("sharpen-101"), (8, Problem::NotSigma));
        assert_eq!(error("dpr-0.5"), (4, Problem::NotDpr));
        assert_eq!(error("dpr-9"), (4, Problem::NotDpr));
        assert_eq!(error("watermark-"), (10, Problem::NotWatermark));
        assert_eq!(error("watermark"), (9, Problem::MissingArgument));
        assert_eq!(error("keep-meta-1"), (0, Problem::UnknownOperation));
        assert_eq!(error("format-auto-lossless"), (7, Problem::UnknownFormat));
        assert_eq!(error("fill-10x10-c-5"), (12, Problem::NotWhole));
        assert_eq!(error("scale-inf"), (6, Problem::NotFinite));
        assert_eq!(error("scale-1e400"), (6, Problem::NotFinite));
        assert_eq!(error("format-heic"), (7, Problem::HeicOutput));
        assert_eq!(error("format-jpg"), (7, Problem::UnknownFormat));
        assert_eq!(error("bgcolor-ff00"), (8, Problem::NotColor));
        assert_eq!(error("jpegquality-101"), (12, Problem::QualityOutOfRange));
        assert_eq!(error("preserve-svg|preserve-svg"), (0, Problem::OnlyPreserveSvg));
        assert_eq!(error(&"original|".repeat(17)), (144, Problem::TooManyOperations));
        assert_eq!(error(&"a".repeat(300)), (255, Problem::TooLong));
        assert_eq!(error(&format!("{}\u{4789}", "a".repeat(253))), (253, Problem::TooLong));
    }

    #[test]
    fn lenient_spellings_have_one_canonical_form() {
        for (text, canonical) in [
            ("width- 40 ", "width-40"),
            ("width-٣٠", "width-30"),
            ("fill-+100x+100-c+50", "fill-100x100-c50"),
            ("fill-1_0x1_0", "fill-10x10"),
            ("fill-100x100-c50-c80", "fill-100x100-c80"),
            ("fill-100x100-c150", "fill-100x100-c100"),
            ("fill-100x100-c0", "fill-100x100"),
            ("scale-.5e2", "scale-50"),
            ("scale-33.3", "scale-33.3"),
            ("bgcolor- f0 f0", "bgcolor-0f00f0"),
            ("bgcolor-f0A", "bgcolor-ff00aa"),
            ("format-webp-foo", "format-webp"),
            ("format-png-lossless", "format-png"),
            ("format-webp-x-lossless", "format-webp-lossless"),
            ("preserve-svg|original", "preserve-svg|original"),
        ] {
            assert_eq!(FilterSpec::parse(text).expect(text).canonical(), canonical);
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_within_itself(text in "\\PC{0,80}") {
            if let Err(error) = FilterSpec::parse(&text) {
                prop_assert!(error.offset <= text.len());
                prop_assert!(text.is_char_boundary(error.offset));
            }
        }

        #[test]
        fn near_misses_parse_or_fail_within_themselves(
            text in "((width|fill|max|scale|format|bgcolor|jpegquality|preserve)(-[0-9xcwebpnf ._+]{0,6}){0,3}\\|?){1,4}"
        ) {
            match FilterSpec::parse(&text) {
                Ok(spec) => prop_assert_eq!(FilterSpec::parse(&spec.canonical()), Ok(spec)),
                Err(error) => prop_assert!(error.offset <= text.len()),
            }
        }
    }
}
