//! A JPEG at an eighth of its size, from nothing but the mean of each block of 8x8 pixels.
//!
//! At that reduction a picture is made of the DC coefficients alone, and nine tenths of libjpeg's time go into coefficients that it
//! throws away. Here they are stepped over, several at a time. libjpeg is the specification: what this module makes of a file is
//! what libjpeg makes of it, to the last bit, and of a file that libjpeg would complain of, or that is coded in any less common
//! way, it makes nothing at all, so that libjpeg is asked. That the header is sound is for whoever calls to have asked before. The
//! tests hold both against each other, on damaged files too.
//!
//! Numbers of clauses are those of ITU-T T.81.

use super::{
    huffman::{Bits, COEFFICIENTS, Codes, MAX_CODE_BITS, Ordered},
    pieces::Pieces,
    scan::{Component, Restarts, Sequential},
};
use crate::{model::Size, render::source::ReadAt};

/// As many bits of coefficients are looked up at once: the table has 16 KiB, and two of them stay in the nearest cache.
const SEVERAL_BITS: u32 = 13;
/// How many of a block they are.
const BLOCK: u32 = COEFFICIENTS as u32;

/// The planes of brightness and both colour differences one behind the other, at the sizes given, a sample for each block.
/// `sampling`: how many blocks of brightness, across and down, go with one of each colour difference.
///
/// `None`: it is not a sequential file with Huffman codes in one scan of three components, or something about it is odd. Whether it
/// is damaged is for libjpeg to say.
///
/// `head` is what the source begins with, up to the first scan at least. The rest is read in pieces.
pub fn decode<S: ReadAt + ?Sized>(
    head: &[u8],
    source: &S,
    sampling: (u32, u32),
    luma: Size,
    chroma: Size,
) -> Option<Vec<u8>> {
    let scan = Sequential::read(head, sampling, AcTable::new)?;
    let units = scan.units;
    if luma != Size::new(units.width * sampling.0, units.height * sampling.1) || chroma != units {
        return None;
    }
    let (luma_length, chroma_length) = (luma.pixels() as usize, chroma.pixels() as usize);
    let mut samples = vec![0; luma_length + 2 * chroma_length];
    let (brightness_plane, differences) = samples.split_at_mut(luma_length);
    let (blue_plane, red_plane) = differences.split_at_mut(chroma_length);
    let mut pieces = Pieces::new(source, (head.len() - scan.data.len()) as u64);
    let mut walk = Walk { predicted: [0; 3], restarts: scan.restarts };
    let rows = brightness_plane
        .chunks_exact_mut((luma.width * sampling.1) as usize)
        .zip(blue_plane.chunks_exact_mut(units.width as usize))
        .zip(red_plane.chunks_exact_mut(units.width as usize));
    for ((brightness, blue), red) in rows {
        walk = pieces.read(|bits| scan.row(bits, walk, brightness, blue, red))?;
    }
    pieces.read(|bits| bits.ends_with_the_image().then_some(()))?;
    Some(samples)
}

/// Where a walk along blocks is, but for the bits.
#[derive(Clone, Copy)]
struct Walk {
    predicted: [i32; 3],
    restarts: Restarts,
}

/// The sample that a DC coefficient stands for. `None` beyond libjpeg's table of samples, which reaches to twice the range.
#[inline(always)]
pub fn sample(coefficient: i16, quantum: i32) -> Option<u8> {
    let value = (i32::from(coefficient) * quantum + 4) >> 3;
    (-512..512).contains(&value).then(|| (value + 128).clamp(0, 255) as u8)
}

impl Sequential<'_, AcTable> {
    /// Reads a row of units, into as many rows of blocks of brightness as a unit has, and one of each colour difference.
    fn row(
        &self,
        bits: &mut Bits<'_>,
        mut walk: Walk,
        rows: &mut [u8],
        blue: &mut [u8],
        red: &mut [u8],
    ) -> Option<Walk> {
        let [brightness, of_blue, of_red] = &self.components;
        let (brightness_ac, blue_ac, red_ac) = (self.ac(brightness)?, self.ac(of_blue)?, self.ac(of_red)?);
        let (across, down) = (brightness.sampling.0 as usize, brightness.sampling.1 as usize);
        let stride = rows.len() / down;
        for (unit, (blue_sample, red_sample)) in blue.iter_mut().zip(red).enumerate() {
            if walk.restarts.pass(bits)? {
                walk.predicted = [0; 3];
            }
            for row in rows.chunks_exact_mut(stride) {
                for sample in row.get_mut(unit * across..(unit + 1) * across)? {
                    *sample = bits.block(brightness, brightness_ac, &mut walk.predicted[0])?;
                }
            }
            *blue_sample = bits.block(of_blue, blue_ac, &mut walk.predicted[1])?;
            *red_sample = bits.block(of_red, red_ac, &mut walk.predicted[2])?;
        }
        Some(walk)
    }
}

/// Codes of all other coefficients.
struct AcTable {
    /// By prefix: as many whole coefficients as it holds.
    several: Box<[Several; 1 << SEVERAL_BITS]>,
    ordered: Ordered,
}

/// What a prefix of [`SEVERAL_BITS`] begins with.
#[derive(Clone, Copy, Default)]
struct Several {
    /// Bits of the codes and of the values behind them; 0: not even one is whole.
    bits: u8,
    /// How many coefficients they are, those that are zero included; with [`BLOCK_ENDS`], the block ends there.
    coefficients: u8,
}

const BLOCK_ENDS: u8 = 0x80;

impl AcTable {
    fn new(codes: Codes<'_>) -> Option<Self> {
        const PREFIXES: usize = 1 << SEVERAL_BITS;
        // One coefficient first.
        let mut one = vec![Several::default(); PREFIXES];
        codes.each(|code, length, symbol| {
            let step = Step::of(symbol);
            if let (Some(free), true) = (SEVERAL_BITS.checked_sub(length), length + step.value_bits <= SEVERAL_BITS) {
                let end = if step.ends { BLOCK_ENDS } else { 0 };
                let bits = (length + step.value_bits) as u8;
                let first = (code << free) as usize;
                if let Some(same) = one.get_mut(first..first + (1 << free)) {
                    same.fill(Several { bits, coefficients: step.coefficients as u8 | end });
                }
            }
        })?;
        let several = |prefix: usize| {
            let mut found = Several::default();
            loop {
                // Bits that are not there are zeros; a coefficient that needs them does not count.
                let next = one[prefix << found.bits & (PREFIXES - 1)];
                let bits = found.bits + next.bits;
                let coefficients = found.coefficients + (next.coefficients & !BLOCK_ENDS);
                if next.bits == 0 || u32::from(bits) > SEVERAL_BITS || u32::from(coefficients) >= BLOCK {
                    return found;
                }
                found = Several { bits, coefficients: coefficients | next.coefficients & BLOCK_ENDS };
                if found.coefficients & BLOCK_ENDS != 0 {
                    return found;
                }
            }
        };
        let several: Vec<Several> = (0..PREFIXES).map(several).collect();
        Some(Self { several: several.into_boxed_slice().try_into().ok()?, ordered: Ordered::new(codes)? })
    }
}

/// One code of a coefficient (F.1.2.2.1).
struct Step {
    /// Bits of the value behind the code.
    value_bits: u32,
    /// The coefficient and the zeros before it.
    coefficients: u32,
    ends: bool,
}

impl Step {
    fn of(symbol: u8) -> Self {
        let (zeros, value_bits) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        let ends = value_bits == 0 && zeros < 15;
        Self { value_bits, coefficients: if ends { 0 } else { zeros + 1 }, ends }
    }
}

impl Bits<'_> {
    /// The mean of the next block, as a sample.
    #[inline(always)]
    fn block(&mut self, component: &Component, ac: &AcTable, predicted: &mut i32) -> Option<u8> {
        *predicted += self.difference(&component.dc)?;
        self.skip_coefficients(ac)?;
        // libjpeg keeps coefficients in 16 bits.
        sample(i16::try_from(*predicted).ok()?, component.quanta[0].into())
    }

    /// To the end of the block.
    #[inline(always)]
    fn skip_coefficients(&mut self, table: &AcTable) -> Option<()> {
        let mut next = 1;
        loop {
            self.fill();
            let Several { bits, coefficients } = table.several[(self.window >> (64 - SEVERAL_BITS)) as usize];
            let after = next + u32::from(coefficients & !BLOCK_ENDS);
            // Of a block that is full no end is told: what may look like one is the next block.
            if bits > 0 && after < BLOCK {
                self.skip(bits.into())?;
                if coefficients & BLOCK_ENDS != 0 {
                    return Some(());
                }
                next = after;
                continue;
            }
            let (length, symbol) = table.ordered.find((self.window >> (64 - MAX_CODE_BITS)) as u32)?;
            let step = Step::of(symbol);
            self.skip(length + step.value_bits)?;
            next += step.coefficients;
            match next {
                _ if step.ends => return Some(()),
                BLOCK => return (step.value_bits > 0).then_some(()),
                ..BLOCK => {}
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use turbojpeg::Subsamp;

    use super::super::trial::{self, Coding, KINDS, Pair, coded, damage};
    use super::*;

    fn both(source: &[u8], size: (usize, usize), subsamp: Subsamp) -> Pair {
        trial::both(
            |source, sampling, luma, chroma| decode(source, source, sampling, luma, chroma),
            source,
            size,
            subsamp,
        )
    }

    #[test]
    fn every_sampling_size_and_quality_is_what_libjpeg_makes_of_it() {
        let mut random = fastrand::Rng::with_seed(1);
        for subsamp in KINDS {
            for (number, size) in
                [(1, 1), (8, 8), (9, 17), (63, 64), (129, 40), (200, 311), (640, 33)].into_iter().enumerate()
            {
                for quality in [1, 30, 75, 92, 100] {
                    let source = coded(
                        size,
                        Coding { quality, subsamp, optimize: number % 2 == 0, progressive: false },
                        &mut random,
                    );
                    let (ours, plain) = both(&source, size, subsamp);
                    assert!(ours.is_some(), "{subsamp:?} {size:?} {quality}");
                    assert!(ours == plain, "{subsamp:?} {size:?} {quality}");
                }
            }
        }
    }

    const STRIP: Coding = Coding { quality: 80, subsamp: Subsamp::Sub2x2, optimize: false, progressive: false };

    /// Strips of one row of units each, coded apart, are the intervals of one picture.
    fn with_restarts(strips: usize, width: usize, random: &mut fastrand::Rng) -> Vec<u8> {
        let strips: Vec<Vec<u8>> = (0..strips).map(|_| coded((width, 16), STRIP, random)).collect();
        let find = |bytes: &[u8], marker: u8| bytes.windows(2).position(|pair| pair == [0xFF, marker]).unwrap();
        let scan = find(&strips[0], 0xDA);
        let mut head = strips[0][..scan].to_vec();
        let frame = find(&head, 0xC0);
        head[frame + 5..frame + 7].copy_from_slice(&(16 * strips.len() as u16).to_be_bytes());
        head.extend([0xFF, 0xDD, 0, 4]);
        head.extend((width.div_ceil(16) as u16).to_be_bytes());
        head.extend(&strips[0][scan..scan + 14]);
        for (number, strip) in strips.iter().enumerate() {
            if number > 0 {
                head.extend([0xFF, 0xD0 + (number as u8 - 1) % 8]);
            }
            head.extend(&strip[scan + 14..strip.len() - 2]);
        }
        head.extend([0xFF, 0xD9]);
        head
    }

    #[test]
    fn restarts_are_kept_to() {
        let mut random = fastrand::Rng::with_seed(3);
        let source = with_restarts(11, 200, &mut random);
        let (ours, plain) = both(&source, (200, 176), Subsamp::Sub2x2);
        assert!(ours.is_some() && ours == plain);
        // The second marker under the number of the first.
        let mut swapped = source.clone();
        let second = swapped.windows(2).position(|pair| pair == [0xFF, 0xD1]).unwrap();
        swapped[second + 1] = 0xD0;
        assert_eq!(both(&swapped, (200, 176), Subsamp::Sub2x2).0, None);
        // One too few.
        swapped.drain(second..second + 2);
        assert_eq!(both(&swapped, (200, 176), Subsamp::Sub2x2).0, None);
    }

    /// What is damaged is left to libjpeg, or comes to what libjpeg makes of it.
    #[test]
    fn nothing_is_made_of_what_libjpeg_would_refuse() {
        let mut random = fastrand::Rng::with_seed(2);
        let (mut made, mut left) = (0, 0);
        for round in 0..4_000 {
            let subsamp = KINDS[round % 4];
            let size = (random.usize(1..90), random.usize(1..70));
            let coding = Coding { quality: random.i32(5..=100), subsamp, optimize: random.bool(), progressive: false };
            let mut source = coded(size, coding, &mut random);
            let changes = random.usize(1..4);
            damage(&mut source, changes, &mut random);
            match both(&source, size, subsamp) {
                (Some(ours), plain) => {
                    assert!(Some(&ours) == plain.as_ref(), "round {round}: {subsamp:?} {size:?}");
                    made += 1;
                }
                (None, _) => left += 1,
            }
        }
        assert!(made > 100 && left > 1_000, "{made} were decoded, {left} left to libjpeg");
    }
}
