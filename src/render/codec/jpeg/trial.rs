//! What the tests of our own decoders are about: files of every coding and kind of damage, and what libjpeg makes of them.

use turbojpeg::{Compressor, Decompressor, Image, PixelFormat, Subsamp};

use super::{planes_of_libjpeg, subsampling};
use crate::model::Size;

pub const KINDS: [Subsamp; 4] = [Subsamp::None, Subsamp::Sub2x1, Subsamp::Sub1x2, Subsamp::Sub2x2];

/// What a decoder of ours makes of a file, and what libjpeg does.
pub type Pair = (Option<Vec<u8>>, Option<Vec<u8>>);

pub struct Coding {
    pub quality: i32,
    pub subsamp: Subsamp,
    /// Codes made for the picture.
    pub optimize: bool,
    pub progressive: bool,
}

/// Colours, edges and noise.
pub fn coded(size: (usize, usize), coding: Coding, random: &mut fastrand::Rng) -> Vec<u8> {
    let (width, height) = size;
    let mut pixels = Vec::with_capacity(3 * width * height);
    let noise = random.u8(1..=255);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let edge = if (x / 13 + y / 29) % 2 == 0 { 200 } else { 20 };
        pixels.extend([edge, (x * 3) as u8, (y * 5) as u8].map(|value: u8| value.wrapping_add(random.u8(..noise))));
    }
    let mut compressor = Compressor::new().unwrap();
    compressor.set_quality(coding.quality).unwrap();
    compressor.set_subsamp(coding.subsamp).unwrap();
    compressor.set_optimize(coding.optimize).unwrap();
    compressor.set_progressive(coding.progressive).unwrap();
    let image = Image { pixels: &pixels[..], width, pitch: 3 * width, height, format: PixelFormat::RGB };
    compressor.compress_to_vec(image).unwrap()
}

/// So many changes, mostly in what follows the first scan's header, sometimes in the tables.
pub fn damage(source: &mut Vec<u8>, changes: usize, random: &mut fastrand::Rng) {
    for _ in 0..changes {
        let from =
            if random.u8(..4) > 0 { source.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap_or(2) } else { 2 };
        let at = random.usize(from.min(source.len() - 1)..source.len());
        match random.u8(..6) {
            0 => source.truncate(at.max(4)),
            1 => drop(source.remove(at)),
            2 => source.insert(at, random.u8(..)),
            3 => source[at] = random.u8(..),
            _ => source[at] ^= 1 << random.u8(..8),
        }
    }
}

/// What both make of a file at an eighth: a decoder of ours, and libjpeg. Only what is part of the picture.
pub fn both(
    decode: impl Fn(&[u8], (u32, u32), Size, Size) -> Option<Vec<u8>>,
    source: &[u8],
    size: (usize, usize),
    subsamp: Subsamp,
) -> Pair {
    let stored = Size::new(size.0 as u32, size.1 as u32);
    let (across, down) = subsampling(subsamp).unwrap();
    let seen = Size::new(stored.width.div_ceil(8), stored.height.div_ceil(8));
    let units = Size::new(seen.width.div_ceil(across.into()), seen.height.div_ceil(down.into()));
    let luma = Size::new(units.width * u32::from(across), units.height * u32::from(down));
    let visible = |samples: Vec<u8>| {
        let (brightness, differences) = samples.split_at(luma.pixels() as usize);
        let rows = brightness.chunks_exact(luma.width as usize).take(seen.height as usize);
        let rows = rows.flat_map(|row| &row[..seen.width as usize]);
        rows.chain(differences).copied().collect::<Vec<u8>>()
    };
    let ours =
        is_as_coded(source, size, subsamp).and_then(|()| decode(source, (across.into(), down.into()), luma, units));
    let plain = planes_of_libjpeg(source, stored, 8, subsamp).ok();
    (ours.map(visible), plain.map(visible))
}

/// Whether the header, which is libjpeg's to judge here as elsewhere, still says so.
pub fn is_as_coded(source: &[u8], size: (usize, usize), subsamp: Subsamp) -> Option<()> {
    let header = Decompressor::new().unwrap().read_header(source).ok()?;
    ((header.width, header.height, header.subsamp) == (size.0, size.1, subsamp)).then_some(())
}
