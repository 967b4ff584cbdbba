//! A sequential JPEG at several reductions in one pass.
//!
//! Most of a reduced decode's time goes into Huffman codes, and they are the same ones whatever the reduction. Here they are read
//! once, and each block comes out at every size that is wanted. As with [`means`](super::means), libjpeg is the specification, and what
//! is handed whatever is odd or damaged. One reduction alone is libjpeg's too: it takes as long there.

use sendimage_pixels::idct::{Block, PLACES};

use super::{
    huffman::{Bits, COEFFICIENTS, Codes, DcTable, MAX_CODE_BITS, Ordered, extended},
    means::sample,
    scan::{Quanta, Sequential},
};
use crate::model::Size;

/// Most codes with their values are no longer; the table has 16 KiB.
const LOOKUP_BITS: u32 = 12;

/// One of the decodes.
#[derive(Clone, Copy, Debug)]
pub struct Reduced {
    /// 2, 4 or 8.
    pub reduction: u8,
    /// The planes, as they are to lie in memory.
    pub luma: Size,
    pub chroma: Size,
}

/// The planes of each decode, one behind the other. `None`, and `sampling`, as in [`means::decode`](super::means::decode).
pub fn decode(source: &[u8], sampling: (u32, u32), wanted: &[Reduced]) -> Option<Vec<Vec<u8>>> {
    let scan = Sequential::read(source, sampling, AcTable::new)?;
    let places = scan.components.each_ref().map(|component| Places::of(&component.quanta));
    let mut decodes = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        decodes.push(Decode::new(wanted)?);
    }
    let mut bits = Bits::new(scan.data);
    let mut predicted = [0; 3];
    let mut block = Block::default();
    let mut restarts = scan.restarts;
    for (y, x) in (0..scan.units.height).flat_map(|y| (0..scan.units.width).map(move |x| (y, x))) {
        if restarts.pass(&mut bits)? {
            predicted = [0; 3];
        }
        for (place, component) in scan.components.iter().enumerate() {
            let (across, down) = component.sampling;
            for (row, column) in (0..down).flat_map(|row| (0..across).map(move |column| (row, column))) {
                let ac = scan.ac(component)?;
                let found = bits.coefficients(&component.dc, ac, &places[place], &mut predicted[place], &mut block)?;
                for decode in &mut decodes {
                    decode.put(place, x * across + column, y * down + row, found, &block)?;
                }
                block.clear();
            }
        }
    }
    bits.ends_with_the_image().then(|| decodes.into_iter().map(|decode| decode.samples).collect())
}

/// Codes of all coefficients but the first.
struct AcTable {
    /// By prefix: the coefficient that it begins with.
    one: Box<[Coefficient; 1 << LOOKUP_BITS]>,
    ordered: Ordered,
}

#[derive(Clone, Copy, Default)]
struct Coefficient {
    value: i16,
    /// How many coefficients it takes, the zeros before it included. [`COEFFICIENTS`]: the block ends.
    takes: u8,
    /// Bits of the code and of the value behind it; 0: they are longer than the prefix.
    bits: u8,
}

impl AcTable {
    fn new(codes: Codes<'_>) -> Option<Self> {
        let mut one = vec![Coefficient::default(); 1 << LOOKUP_BITS];
        codes.each(|code, length, symbol| {
            let Some(free) = LOOKUP_BITS.checked_sub(length) else { return };
            let first = (code << free) as usize;
            for (rest, place) in one.iter_mut().skip(first).take(1 << free).enumerate() {
                *place =
                    Coefficient::read(length, symbol, (rest as u64) << (64 - free.max(1)), free).unwrap_or_default();
            }
        })?;
        Some(Self { one: one.into_boxed_slice().try_into().ok()?, ordered: Ordered::new(codes)? })
    }

    #[cold]
    fn longer(&self, window: u64) -> Option<Coefficient> {
        let (length, symbol) = self.ordered.find((window >> (64 - MAX_CODE_BITS)) as u32)?;
        Coefficient::read(length, symbol, window << length, 15)
    }
}

impl Coefficient {
    /// What a symbol says with the bits behind its code, of which so many are there (F.1.2.2.1); `None` if they are too few.
    fn read(length: u32, symbol: u8, window: u64, available: u32) -> Option<Self> {
        let (zeros, bits) = (symbol >> 4, u32::from(symbol & 15));
        if bits > available {
            return None;
        }
        let takes = if bits == 0 && zeros < 15 { COEFFICIENTS as u8 } else { zeros + 1 };
        Some(Self { value: extended(window, bits), takes, bits: (length + bits) as u8 })
    }
}

/// Quantum and place in the block of each coefficient, in the order of transmission.
struct Places([(i16, u8); COEFFICIENTS]);

impl Places {
    fn of(quanta: &Quanta) -> Self {
        Self(std::array::from_fn(|at| (quanta[at], PLACES[at])))
    }
}

/// What is known of a block beside its coefficients.
#[derive(Clone, Copy)]
struct Found {
    /// The first.
    mean: i16,
    quantum: i16,
    /// No other is there.
    is_flat: bool,
}

impl Bits<'_> {
    /// Reads the coefficients of a block into one that holds none.
    #[inline(always)]
    fn coefficients(
        &mut self,
        dc: &DcTable,
        table: &AcTable,
        Places(places): &Places,
        predicted: &mut i32,
        block: &mut Block,
    ) -> Option<Found> {
        // In registers.
        let mut bits = *self;
        *predicted += bits.difference(dc)?;
        let mean = i16::try_from(*predicted).ok()?;
        let (quantum, place) = places[0];
        let first = i32::from(mean) * i32::from(quantum);
        block.set(place, first as i16);
        let mut magnitudes = magnitude(first);
        let mut next = 1;
        while next < COEFFICIENTS {
            bits.fill();
            let mut found = table.one[(bits.window >> (64 - LOOKUP_BITS)) as usize];
            if found.bits == 0 {
                found = table.longer(bits.window)?;
            }
            bits.skip(found.bits.into())?;
            let at = next + usize::from(found.takes) - 1;
            if at >= COEFFICIENTS {
                (usize::from(found.takes) == COEFFICIENTS).then_some(())?;
                break;
            }
            let (quantum, place) = places[at];
            let product = i32::from(found.value) * i32::from(quantum);
            block.set(place, product as i16);
            magnitudes |= magnitude(product);
            next = at + 1;
        }
        *self = bits;
        (magnitudes < SANE).then_some(Found { mean, quantum, is_flat: next == 1 })
    }
}

/// Samples of eight bits give no coefficient beyond a fourth of that. libjpeg's own transforms, of which there are several, agree
/// about none much larger.
const SANE: u32 = 1 << 12;

#[inline(always)]
fn magnitude(value: i32) -> u32 {
    (value ^ (value >> 31)) as u32
}

/// Where blocks come together.
struct Decode {
    reduction: u8,
    /// Width and height of each plane, and where it begins.
    planes: [(usize, usize, usize); 3],
    samples: Vec<u8>,
}

impl Decode {
    fn new(wanted: &Reduced) -> Option<Self> {
        let size = |size: Size| (size.width as usize, size.height as usize);
        let ((luma_width, luma_height), (width, height)) = (size(wanted.luma), size(wanted.chroma));
        let (luma, chroma) = (luma_width * luma_height, width * height);
        matches!(wanted.reduction, 2 | 4 | 8).then(|| Self {
            reduction: wanted.reduction,
            planes: [(luma_width, luma_height, 0), (width, height, luma), (width, height, luma + chroma)],
            samples: vec![0; luma + 2 * chroma],
        })
    }

    #[inline(always)]
    fn put(&mut self, place: usize, x: u32, y: u32, found: Found, block: &Block) -> Option<()> {
        let flat = || sample(found.mean, found.quantum.into());
        match (self.reduction, found.is_flat) {
            (2, true) => self.lay::<4>(place, x, y, &[flat()?; 16]),
            (2, false) => self.lay::<4>(place, x, y, &block.to_4x4()),
            (4, true) => self.lay::<2>(place, x, y, &[flat()?; 4]),
            (4, false) => self.lay::<2>(place, x, y, &block.to_2x2()),
            _ => self.lay::<1>(place, x, y, &[flat()?]),
        }
        Some(())
    }

    /// Copies a block into its plane, as far as it is within.
    #[inline(always)]
    fn lay<const SIDE: usize>(&mut self, place: usize, x: u32, y: u32, samples: &[u8]) {
        let (width, height, first) = self.planes[place];
        let (x, y) = (x as usize * SIDE, y as usize * SIDE);
        for (row, samples) in samples.chunks_exact(SIDE).enumerate().take(height.saturating_sub(y)) {
            let at = first + (y + row) * width + x;
            let count = SIDE.min(width.saturating_sub(x));
            if count == SIDE {
                if let Some(to) = self.samples.get_mut(at..at + SIDE) {
                    to.copy_from_slice(samples);
                }
            } else if let Some(to) = self.samples.get_mut(at..at + count) {
                to.copy_from_slice(&samples[..count]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use turbojpeg::Subsamp;

    use super::super::{
        plane_sizes, reduced, subsampling,
        trial::{Coding, KINDS, Pair, coded, damage, is_as_coded},
    };
    use super::*;

    /// What both make of a file at each reduction.
    fn both(source: &[u8], size: (usize, usize), subsamp: Subsamp) -> Vec<Pair> {
        let stored = Size::new(size.0 as u32, size.1 as u32);
        let (across, down) = subsampling(subsamp).unwrap();
        let wanted = [2, 4, 8].map(|reduction| {
            let (luma, chroma) = plane_sizes(reduced(stored, reduction).1, subsamp);
            Reduced { reduction, luma, chroma }
        });
        let ours =
            is_as_coded(source, size, subsamp).and_then(|()| decode(source, (across.into(), down.into()), &wanted));
        let each = |at: usize| {
            let Reduced { reduction, luma, chroma } = wanted[at];
            let seen = reduced(stored, reduction).1;
            let visible = |samples: Vec<u8>| {
                assert_eq!(samples.len() as u64, luma.pixels() + 2 * chroma.pixels());
                let (brightness, differences) = samples.split_at(luma.pixels() as usize);
                let rows = brightness.chunks_exact(luma.width as usize).take(seen.height as usize);
                let rows = rows.flat_map(|row| &row[..seen.width as usize]);
                rows.chain(differences).copied().collect::<Vec<u8>>()
            };
            let plain = super::super::planes_of_libjpeg(source, stored, reduction, subsamp).ok();
            (ours.as_ref().map(|ours| visible(ours[at].clone())), plain.map(visible))
        };
        (0..3).map(each).collect()
    }

    #[test]
    fn every_sampling_size_and_quality_is_what_libjpeg_makes_of_it() {
        let mut random = fastrand::Rng::with_seed(1);
        for subsamp in KINDS {
            for (number, size) in
                [(1, 1), (8, 8), (9, 17), (63, 64), (129, 40), (200, 311), (640, 33)].into_iter().enumerate()
            {
                for quality in [1, 30, 75, 92, 100] {
                    let coding = Coding { quality, subsamp, optimize: number % 2 == 0, progressive: false };
                    let source = coded(size, coding, &mut random);
                    for (ours, plain) in both(&source, size, subsamp) {
                        assert!(ours.is_some(), "{subsamp:?} {size:?} {quality}");
                        assert!(ours == plain, "{subsamp:?} {size:?} {quality}");
                    }
                }
            }
        }
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
            for (at, (ours, plain)) in both(&source, size, subsamp).into_iter().enumerate() {
                match ours {
                    Some(ours) => {
                        assert!(Some(&ours) == plain.as_ref(), "round {round}: {subsamp:?} {size:?}, {at}");
                        made += 1;
                    }
                    None => left += 1,
                }
            }
        }
        assert!(made > 300 && left > 3_000, "{made} were decoded, {left} left to libjpeg");
    }
}
