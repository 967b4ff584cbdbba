//! A JPEG at an eighth of its size, from nothing but the mean of each block of 8x8 pixels.
//!
//! At that reduction a picture is made of the DC coefficients alone, and nine tenths of libjpeg's time go into coefficients that it
//! throws away. Here they are stepped over, several at a time. libjpeg is the specification: what this module makes of a file is
//! what libjpeg makes of it, to the last bit, and of a file that libjpeg would complain of, or that is coded in any less common
//! way, it makes nothing at all, so that libjpeg is asked. That the header is sound is for whoever calls to have asked before. The
//! tests hold both against each other, on damaged files too.
//!
//! At a quarter the values of 25 coefficients count. Written like this module that took as long as libjpeg does, which decodes them.
//!
//! Numbers of clauses are those of ITU-T T.81.

use super::jpeg_header::segment;
use crate::model::Size;

/// Length of a Huffman code (C.2).
const MAX_CODE_BITS: u32 = 16;
/// Coefficients of a block.
const COEFFICIENTS: u32 = 64;
/// Largest category of a difference between DC coefficients at 8 bits a sample (table F.1).
const MAX_DC_BITS: u32 = 11;
/// As many bits of coefficients are looked up at once: the table has 16 KiB, and two of them stay in the nearest cache.
const SEVERAL_BITS: u32 = 13;
/// Most codes of differences are no longer.
const DC_LOOKUP_BITS: u32 = 9;

/// The planes of brightness and both colour differences one behind the other, at the sizes given, a sample for each block.
/// `sampling`: how many blocks of brightness, across and down, go with one of each colour difference.
///
/// `None`: it is not a sequential file with Huffman codes in one scan of three components, or something about it is odd. Whether it
/// is damaged is for libjpeg to say.
pub fn decode(source: &[u8], sampling: (u32, u32), luma: Size, chroma: Size) -> Option<Vec<u8>> {
    let scan = Scan::read(source)?;
    let [brightness, blue, red] = &scan.components;
    let is_as_said = brightness.sampling == sampling && blue.sampling == (1, 1) && red.sampling == (1, 1);
    let units = (scan.size.0.div_ceil(8 * sampling.0), scan.size.1.div_ceil(8 * sampling.1));
    let fits = (luma.width, luma.height) == (units.0 * sampling.0, units.1 * sampling.1)
        && (chroma.width, chroma.height) == units;
    if !is_as_said || !fits {
        return None;
    }
    let (luma_length, chroma_length) = (luma.pixels() as usize, chroma.pixels() as usize);
    let mut samples = vec![0; luma_length + 2 * chroma_length];
    let (brightness_plane, differences) = samples.split_at_mut(luma_length);
    let (blue_plane, red_plane) = differences.split_at_mut(chroma_length);
    let table = |component: &Component| scan.ac[component.ac].as_ref();
    let (brightness_ac, blue_ac, red_ac) = (table(brightness)?, table(blue)?, table(red)?);
    let mut bits = Bits::new(scan.data);
    let mut predicted = [0; 3];
    let (mut until_restart, mut restarts) = (scan.restart_interval, 0_u8);
    for (unit_row, (blue_row, red_row)) in
        blue_plane.chunks_exact_mut(units.0 as usize).zip(red_plane.chunks_exact_mut(units.0 as usize)).enumerate()
    {
        let stride = luma.width as usize;
        let first = unit_row * sampling.1 as usize * stride;
        let rows = brightness_plane.get_mut(first..first + sampling.1 as usize * stride)?;
        for (unit, (blue_sample, red_sample)) in blue_row.iter_mut().zip(red_row).enumerate() {
            if scan.restart_interval > 0 {
                if until_restart == 0 {
                    bits.restart(restarts)?;
                    restarts = (restarts + 1) % 8;
                    (until_restart, predicted) = (scan.restart_interval, [0; 3]);
                }
                until_restart -= 1;
            }
            for row in rows.chunks_exact_mut(stride) {
                for sample in row.get_mut(unit * sampling.0 as usize..(unit + 1) * sampling.0 as usize)? {
                    *sample = bits.block(brightness, brightness_ac, &mut predicted[0])?;
                }
            }
            *blue_sample = bits.block(blue, blue_ac, &mut predicted[1])?;
            *red_sample = bits.block(red, red_ac, &mut predicted[2])?;
        }
    }
    bits.ends_with_the_image().then_some(samples)
}

/// What the segments up to the first scan say, and what follows them.
struct Scan<'a> {
    /// Width and height of the image in pixels.
    size: (u32, u32),
    components: [Component; 3],
    /// As many as are used, each once.
    ac: [Option<AcTable>; 4],
    /// Units between restarts; 0: none.
    restart_interval: u32,
    /// The coefficients, up to the end of the file.
    data: &'a [u8],
}

struct Component {
    sampling: (u32, u32),
    /// What the DC coefficient is a multiple of.
    quantum: i32,
    dc: DcTable,
    /// Number of the table of all other coefficients.
    ac: usize,
}

impl<'a> Scan<'a> {
    fn read(source: &'a [u8]) -> Option<Self> {
        let mut rest = source.strip_prefix(b"\xFF\xD8")?;
        let (mut frame, mut restart_interval) = (None, 0);
        let (mut quanta, mut dc, mut ac) = ([None; 4], [None; 4], [None; 4]);
        loop {
            let (marker, mut body, after) = segment(rest)?;
            rest = after;
            match marker {
                // Sequential with Huffman codes (table B.1).
                0xC0 | 0xC1 => {
                    if frame.replace(body).is_some() {
                        return None;
                    }
                }
                0xC4 => {
                    while let [class_and_number, after @ ..] = body {
                        let counts = after.first_chunk::<16>()?;
                        let total = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
                        let codes = Codes { counts, symbols: after.get(16..16 + total)? };
                        let number = usize::from(class_and_number & 15);
                        match class_and_number >> 4 {
                            0 => *dc.get_mut(number)? = Some(codes),
                            1 => *ac.get_mut(number)? = Some(codes),
                            _ => return None,
                        }
                        body = &after[16 + total..];
                    }
                }
                0xDB => {
                    while let [precision_and_number, after @ ..] = body {
                        let (first, bytes) = match (precision_and_number >> 4, after) {
                            (0, [value, ..]) => (u16::from(*value), 1),
                            (1, [high, low, ..]) => (u16::from_be_bytes([*high, *low]), 2),
                            _ => return None,
                        };
                        *quanta.get_mut(usize::from(precision_and_number & 15))? = Some(first);
                        body = after.get(bytes * COEFFICIENTS as usize..)?;
                    }
                }
                0xDD => restart_interval = u16::from_be_bytes(body.try_into().ok()?).into(),
                0xDA => {
                    // Three components in the frame's order, all coefficients, no approximation.
                    let &[3, c0, t0, c1, t1, c2, t2, 0, 63, 0] = body else { return None };
                    let &[8, h1, h0, w1, w0, 3, ref described @ ..] = frame? else { return None };
                    let described: &[u8; 9] = described.try_into().ok()?;
                    let selected = [(c0, t0), (c1, t1), (c2, t2)];
                    let mut components = described.chunks_exact(3).zip(selected).map(|(described, (id, tables))| {
                        let &[described_id, sampling, quantum] = described else { return None };
                        // libjpeg takes 16 bits for signed ones.
                        let quantum = i16::try_from((*quanta.get(usize::from(quantum))?)?).ok()?;
                        (described_id == id).then_some(())?;
                        Some(Component {
                            sampling: (u32::from(sampling >> 4), u32::from(sampling & 15)),
                            quantum: quantum.into(),
                            dc: DcTable::new((*dc.get(usize::from(tables >> 4))?)?)?,
                            ac: (tables & 15).into(),
                        })
                    });
                    let components = [components.next()??, components.next()??, components.next()??];
                    let mut tables = [const { None }; 4];
                    for number in components.iter().map(|component| component.ac) {
                        let codes = (*ac.get(number)?)?;
                        if tables[number].is_none() {
                            tables[number] = Some(AcTable::new(codes)?);
                        }
                    }
                    let side = |high, low| u32::from(u16::from_be_bytes([high, low]));
                    let size = (side(w1, w0), side(h1, h0));
                    return Some(Self { size, components, ac: tables, restart_interval, data: rest });
                }
                // Application data and comments.
                0xE0..=0xEF | 0xFE => {}
                _ => return None,
            }
        }
    }
}

/// Huffman codes as they are written: how many there are of each length, and what they stand for (B.2.4.2).
#[derive(Clone, Copy)]
struct Codes<'a> {
    counts: &'a [u8; 16],
    symbols: &'a [u8],
}

impl Codes<'_> {
    /// Each code, its length and its symbol (C.2); `None` where there are more codes of a length than can be told apart, the one of
    /// ones alone left out.
    fn each(&self, mut take: impl FnMut(u32, u32, u8)) -> Option<()> {
        let (mut code, mut index) = (0_u32, 0);
        for (length, &count) in (1..).zip(self.counts) {
            for _ in 0..count {
                take(code, length, *self.symbols.get(index)?);
                code += 1;
                index += 1;
            }
            if code >= 1 << length {
                return None;
            }
            code <<= 1;
        }
        Some(())
    }
}

/// Codes in their order, for those that no table of prefixes has.
struct Ordered {
    /// For each length: the first number of so many bits that is beyond its codes, at the left of 16 bits.
    beyond: [u32; 16],
    /// For each length: what takes a code to its symbol's place.
    offset: [i32; 16],
    symbols: Vec<u8>,
}

impl Ordered {
    fn new(codes: Codes<'_>) -> Option<Self> {
        let (mut beyond, mut offset, mut index) = ([0; 16], [0; 16], 0);
        codes.each(|code, length, _| {
            let at = length as usize - 1;
            offset[at] = index - code as i32;
            beyond[at] = (code + 1) << (MAX_CODE_BITS - length);
            index += 1;
        })?;
        // A length without codes ends where the one before it does.
        for at in 1..16 {
            beyond[at] = beyond[at].max(beyond[at - 1]);
        }
        Some(Self { beyond, offset, symbols: codes.symbols.to_vec() })
    }

    /// The length and the symbol of the code that 16 bits begin with.
    fn find(&self, bits: u32) -> Option<(u32, u8)> {
        let at = self.beyond.iter().position(|&beyond| bits < beyond)?;
        let length = at as u32 + 1;
        let place = self.offset[at] + (bits >> (MAX_CODE_BITS - length)) as i32;
        Some((length, *self.symbols.get(usize::try_from(place).ok()?)?))
    }
}

/// Codes of the differences between DC coefficients.
struct DcTable {
    /// By prefix: length of the code, 0 where it is longer than the prefix, and category.
    prefixes: [(u8, u8); 1 << DC_LOOKUP_BITS],
    ordered: Ordered,
}

impl DcTable {
    fn new(codes: Codes<'_>) -> Option<Self> {
        if codes.symbols.iter().any(|&category| u32::from(category) > MAX_DC_BITS) {
            return None;
        }
        let mut prefixes = [(0, 0); 1 << DC_LOOKUP_BITS];
        codes.each(|code, length, category| {
            if let Some(free) = DC_LOOKUP_BITS.checked_sub(length) {
                let first = (code << free) as usize;
                if let Some(same) = prefixes.get_mut(first..first + (1 << free)) {
                    same.fill((length as u8, category));
                }
            }
        })?;
        Some(Self { prefixes, ordered: Ordered::new(codes)? })
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
                if next.bits == 0 || u32::from(bits) > SEVERAL_BITS || u32::from(coefficients) >= COEFFICIENTS {
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

/// The coded bits, the first at the left.
struct Bits<'a> {
    data: &'a [u8],
    /// Of the first byte that is not counted in.
    at: usize,
    window: u64,
    /// How many bits of the window count. Behind them may stand what follows, or zeros.
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, window: 0, count: 0 }
    }

    /// At least 32 bits, if there are as many before the next marker.
    #[inline(always)]
    fn fill(&mut self) {
        if self.count < 32 {
            self.fill_up();
        }
    }

    #[inline(always)]
    fn fill_up(&mut self) {
        const LOW: u64 = 0x0101_0101_0101_0101;
        if let Some(bytes) = self.data.get(self.at..).and_then(<[u8]>::first_chunk) {
            let eight = u64::from_be_bytes(*bytes);
            // Whether no byte has all bits set.
            if (!eight).wrapping_sub(LOW) & eight & (LOW << 7) == 0 {
                self.window |= eight >> self.count;
                let bytes = (63 - self.count) / 8;
                self.at += bytes as usize;
                self.count += 8 * bytes;
                return;
            }
        }
        self.fill_by_bytes();
    }

    /// A byte of ones is followed by one of zeros, which is none of the data, or is the beginning of a marker (B.1.1.5).
    #[cold]
    fn fill_by_bytes(&mut self) {
        while self.count <= 56 {
            let byte = match *self.data.get(self.at..).unwrap_or_default() {
                [0xFF, 0, ..] => {
                    self.at += 2;
                    0xFF
                }
                [0xFF, ..] | [] => return,
                [byte, ..] => {
                    self.at += 1;
                    byte
                }
            };
            self.window |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) -> Option<()> {
        self.count = self.count.checked_sub(bits)?;
        self.window <<= bits;
        Some(())
    }

    /// The mean of the next block, as a sample.
    #[inline(always)]
    fn block(&mut self, component: &Component, ac: &AcTable, predicted: &mut i32) -> Option<u8> {
        *predicted += self.difference(&component.dc)?;
        self.skip_coefficients(ac)?;
        // libjpeg keeps coefficients in 16 bits, and its table of samples reaches to twice the range.
        let coefficient = i32::from(i16::try_from(*predicted).ok()?);
        let value = (coefficient * component.quantum + 4) >> 3;
        (-512..512).contains(&value).then(|| (value + 128).clamp(0, 255) as u8)
    }

    /// Between this block's DC coefficient and that of the one before (F.2.2.1).
    #[inline(always)]
    fn difference(&mut self, table: &DcTable) -> Option<i32> {
        self.fill();
        let (length, category) = match table.prefixes[(self.window >> (64 - DC_LOOKUP_BITS)) as usize] {
            (0, _) => table.ordered.find((self.window >> (64 - MAX_CODE_BITS)) as u32)?,
            (length, category) => (u32::from(length), category),
        };
        self.skip(length)?;
        if category == 0 {
            return Some(0);
        }
        let bits = u32::from(category);
        let value = (self.window >> (64 - bits)) as i32;
        self.skip(bits)?;
        Some(if value < 1 << (bits - 1) { value - (1 << bits) + 1 } else { value })
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
            if bits > 0 && after < COEFFICIENTS {
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
                COEFFICIENTS => return (step.value_bits > 0).then_some(()),
                ..COEFFICIENTS => {}
                _ => return None,
            }
        }
    }

    /// Past the marker that stands between restart intervals (B.2.1): fewer than eight bits before it, and it is the one expected.
    fn restart(&mut self, number: u8) -> Option<()> {
        self.at_marker(0xD0 + number).then_some(())?;
        *self = Self { data: self.data, at: self.at + 2, window: 0, count: 0 };
        Some(())
    }

    fn ends_with_the_image(&mut self) -> bool {
        self.at_marker(0xD9)
    }

    fn at_marker(&mut self, marker: u8) -> bool {
        self.fill_by_bytes();
        self.count < 8 && self.data.get(self.at..).is_some_and(|rest| rest.starts_with(&[0xFF, marker]))
    }
}

#[cfg(test)]
mod tests {
    use turbojpeg::{Compressor, Decompressor, Image, PixelFormat, Subsamp};

    use super::super::jpeg::{planes_of_libjpeg, subsampling};
    use super::*;

    const KINDS: [Subsamp; 4] = [Subsamp::None, Subsamp::Sub2x1, Subsamp::Sub1x2, Subsamp::Sub2x2];

    /// Colours, edges and noise.
    fn coded(
        size: (usize, usize),
        quality: i32,
        subsamp: Subsamp,
        optimize: bool,
        random: &mut fastrand::Rng,
    ) -> Vec<u8> {
        let (width, height) = size;
        let mut pixels = Vec::with_capacity(3 * width * height);
        let noise = random.u8(1..=255);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let edge = if (x / 13 + y / 29) % 2 == 0 { 200 } else { 20 };
            pixels.extend([edge, (x * 3) as u8, (y * 5) as u8].map(|value: u8| value.wrapping_add(random.u8(..noise))));
        }
        let mut compressor = Compressor::new().unwrap();
        compressor.set_quality(quality).unwrap();
        compressor.set_subsamp(subsamp).unwrap();
        compressor.set_optimize(optimize).unwrap();
        let image = Image { pixels: &pixels[..], width, pitch: 3 * width, height, format: PixelFormat::RGB };
        compressor.compress_to_vec(image).unwrap()
    }

    /// What both make of a file: this module, and libjpeg. Only what is part of the picture.
    fn both(source: &[u8], size: (usize, usize), subsamp: Subsamp) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
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
        // The header is libjpeg's to judge, here as there.
        let header = Decompressor::new().unwrap().read_header(source).ok();
        let header = header.filter(|header| (header.width, header.height, header.subsamp) == (size.0, size.1, subsamp));
        let ours = header.and_then(|_| decode(source, (across.into(), down.into()), luma, units));
        let plain = planes_of_libjpeg(source, stored, 8, subsamp).ok();
        (ours.map(visible), plain.map(visible))
    }

    #[test]
    fn every_sampling_size_and_quality_is_what_libjpeg_makes_of_it() {
        let mut random = fastrand::Rng::with_seed(1);
        for subsamp in KINDS {
            for (number, size) in
                [(1, 1), (8, 8), (9, 17), (63, 64), (129, 40), (200, 311), (640, 33)].into_iter().enumerate()
            {
                for quality in [1, 30, 75, 92, 100] {
                    let source = coded(size, quality, subsamp, number % 2 == 0, &mut random);
                    let (ours, plain) = both(&source, size, subsamp);
                    assert!(ours.is_some(), "{subsamp:?} {size:?} {quality}");
                    assert!(ours == plain, "{subsamp:?} {size:?} {quality}");
                }
            }
        }
    }

    /// Strips of one row of units each, coded apart, are the intervals of one picture.
    fn with_restarts(strips: usize, width: usize, random: &mut fastrand::Rng) -> Vec<u8> {
        let strips: Vec<Vec<u8>> =
            (0..strips).map(|_| coded((width, 16), 80, Subsamp::Sub2x2, false, random)).collect();
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
            let mut source = coded(size, random.i32(5..=100), subsamp, random.bool(), &mut random);
            for _ in 0..random.usize(1..4) {
                // Mostly in the scan, sometimes in the tables.
                let from = if random.u8(..4) > 0 {
                    source.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap_or(2)
                } else {
                    2
                };
                let at = random.usize(from.min(source.len() - 1)..source.len());
                match random.u8(..6) {
                    0 => source.truncate(at.max(4)),
                    1 => drop(source.remove(at)),
                    2 => source.insert(at, random.u8(..)),
                    3 => source[at] = random.u8(..),
                    _ => source[at] ^= 1 << random.u8(..8),
                }
            }
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

    #[test]
    fn codes_beyond_the_table_are_found() {
        // One code of each length, the last two of 16 bits.
        let counts = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
        let symbols: Vec<u8> = (1..=16).collect();
        let ordered = Ordered::new(Codes { counts: &counts, symbols: &symbols }).unwrap();
        assert_eq!(ordered.find(0), Some((1, 1)));
        assert_eq!(ordered.find(0b1000_0000_0000_0000), Some((2, 2)));
        assert_eq!(ordered.find(0b1111_1111_1111_1110), Some((16, 16)));
        assert_eq!(ordered.find(0xFFFF), None);
        let too_many = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Ordered::new(Codes { counts: &too_many, symbols: &symbols }).is_none());
    }
}
