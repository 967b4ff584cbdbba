//! `sendimage sample-photo`, and the sample that the demo makes.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;

use super::{CommandResult, one_worker::OneWorker};
use crate::{
    config::{Config, RenderConfig},
    sample,
    spec::FilterSpec,
    unnamed::unnamed_file,
};

/// Longest time for one sample.
const DEADLINE: Duration = Duration::from_secs(120);

/// Writes a photo-like JPEG that the program makes itself.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Width and height in pixels
    #[arg(long, value_name = "WxH", default_value = "2400x1600", value_parser = size)]
    size: (u32, u32),
    /// JPEG quality, 1 to 100
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// Another number, another picture
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let (width, height) = arguments.size;
    let bytes = jpeg(width, height, arguments.quality, arguments.seed)?;
    std::fs::write(&arguments.output, bytes).with_context(|| format!("cannot write {}", arguments.output.display()))?;
    Ok(())
}

/// A photo-like JPEG. The encoder runs in a render worker like every other: the pixels reach it as a BMP.
pub(super) fn jpeg(width: u32, height: u32, quality: u8, seed: u64) -> Result<Vec<u8>, anyhow::Error> {
    let mut source = temporary()?;
    source.write_all(&bmp(width, height, &sample::photo(width, height, seed)))?;
    let mut output = temporary()?;
    let spec = FilterSpec::parse(&format!("original|format-jpeg|jpegquality-{quality}"))?;
    // The picture is ours: only memory bounds it.
    let render = RenderConfig {
        memory_budget: crate::config::Bytes(4 << 30),
        max_source_bytes: crate::config::Bytes(4 << 30),
        max_source_pixels: 1 << 30,
        max_output_pixels: 1 << 30,
        ..RenderConfig::default()
    };
    let config = Config { render, ..Config::default() };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let worker = OneWorker::start(&config).await?;
        worker.render(&source, &spec, None, &output, Instant::now() + DEADLINE).await?;
        anyhow::Ok(())
    })?;
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file without a name.
pub(super) fn temporary() -> Result<File, anyhow::Error> {
    let folder = std::env::temp_dir();
    unnamed_file(&folder).with_context(|| format!("cannot make a temporary file in {}", folder.display()))
}

/// An uncompressed 24-bit BMP: BITMAPFILEHEADER, BITMAPINFOHEADER, rows from the bottom up in BGR, each padded to four bytes.
fn bmp(width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    const HEADERS: u32 = 14 + 40;
    let row_bytes = (width as usize * 3).next_multiple_of(4);
    let pixel_bytes = (row_bytes * height as usize) as u32;
    let mut file = Vec::with_capacity(HEADERS as usize + pixel_bytes as usize);
    file.extend_from_slice(b"BM");
    for number in [HEADERS + pixel_bytes, 0, HEADERS, 40, width, height] {
        file.extend_from_slice(&number.to_le_bytes());
    }
    // One plane of 24 bits a pixel; uncompressed; 72 dpi; no palette.
    file.extend_from_slice(&1u16.to_le_bytes());
    file.extend_from_slice(&24u16.to_le_bytes());
    for number in [0, pixel_bytes, 2835, 2835, 0, 0] {
        file.extend_from_slice(&u32::to_le_bytes(number));
    }
    for row in rgb.chunks_exact(width as usize * 3).rev() {
        let begin = file.len();
        file.extend(row.chunks_exact(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]));
        file.resize(begin + row_bytes, 0);
    }
    file
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=16_000).contains(side));
    text.split_once('x')
        .and_then(|(width, height)| Some((side(width)?, side(height)?)))
        .ok_or_else(|| "a size is WIDTHxHEIGHT, each from 1 to 16000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bmp_is_one() {
        let file = bmp(3, 2, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
        assert_eq!(file.len(), 54 + 2 * 12);
        let picture = image::load_from_memory(&file).expect("a BMP").into_rgb8();
        assert_eq!(picture.dimensions(), (3, 2));
        assert_eq!(picture.get_pixel(0, 0).0, [1, 2, 3]);
        assert_eq!(picture.get_pixel(2, 1).0, [16, 17, 18]);
    }
}
