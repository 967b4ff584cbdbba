//! As [`means`](super::means), of a JPEG in progressive scans.
//!
//! The DC coefficients are in scans of their own, a tenth of the file or less. The scans of all others are looked at by their headers
//! only: they have to be there, and to bring every coefficient to its last bit, for libjpeg would else make up for what is missing. So
//! damage within them is not seen where nothing of them is needed; a file that is cut off is.

use super::{
    MAX_SCANS,
    huffman::{Bits, COEFFICIENTS, DcTable},
    means::sample,
    scan::{Next, Restarts, ScanHeader, Tables},
};
use crate::model::Size;

/// As [`means::decode`](super::means::decode).
pub fn decode(source: &[u8], sampling: (u32, u32), luma: Size, chroma: Size) -> Option<Vec<u8>> {
    let mut tables = Tables::default();
    let mut rest = source.strip_prefix(b"\xFF\xD8")?;
    let mut planes = None;
    for _ in 0..=MAX_SCANS {
        let Next::Scan(header, data) = tables.until_scan(rest)? else {
            return planes.filter(Planes::are_complete)?.samples();
        };
        if planes.is_none() {
            planes = Some(Planes::new(&tables, sampling, luma, chroma)?);
        }
        let planes = planes.as_mut()?;
        planes.announce(&tables, &header)?;
        rest = match header.spectrum {
            (0, 0) => planes.scan(&tables, &header, data)?,
            _ => &data[data_length(data)?..],
        };
    }
    None
}

/// How long the data of a scan are, up to a marker that is none of theirs (B.1.1.5).
fn data_length(data: &[u8]) -> Option<usize> {
    memchr::memchr_iter(0xFF, data).find(|&at| !matches!(data.get(at + 1), Some(0 | 0xD0..=0xD7)))
}

/// Coefficients so far. Those of brightness come first, then both differences'.
struct Planes {
    /// Blocks of each, across and down, with those that only fill up units.
    stored: [Size; 3],
    /// Without them: what a scan of one component has (A.2.3).
    own: [Size; 3],
    sampling: [(u32, u32); 3],
    /// Units of a scan of several components.
    units: Size,
    coefficients: Vec<i16>,
    /// What they are multiples of, as it was said before the first scan of each.
    quanta: [Option<i32>; 3],
    /// How many bits each coefficient of a block still lacks; `None`: no scan had it.
    lacking: [[Option<u8>; COEFFICIENTS]; 3],
}

impl Planes {
    fn new(tables: &Tables<'_>, sampling: (u32, u32), luma: Size, chroma: Size) -> Option<Self> {
        let frame = tables.frame()?;
        if !frame.progressive || !frame.is_sampled(sampling) {
            return None;
        }
        let (sampling, (across, down), units) = ([sampling, (1, 1), (1, 1)], sampling, frame.units());
        let stored = sampling.map(|(across, down)| Size::new(units.width * across, units.height * down));
        if stored != [luma, chroma, chroma] {
            return None;
        }
        let own = sampling
            .map(|of| Size::new((frame.size.0 * of.0).div_ceil(8 * across), (frame.size.1 * of.1).div_ceil(8 * down)));
        let blocks = luma.pixels() + 2 * chroma.pixels();
        Some(Self {
            stored,
            own,
            sampling,
            units,
            coefficients: vec![0; usize::try_from(blocks).ok()?],
            quanta: [None; 3],
            lacking: [[None; COEFFICIENTS]; 3],
        })
    }

    /// Notes what a scan brings; `None` where it does not follow from those before (G.1.1.1).
    fn announce(&mut self, tables: &Tables<'_>, header: &ScanHeader) -> Option<()> {
        let (from, to) = header.spectrum;
        let (had, lacks) = header.approximation;
        let is_known = match from {
            0 => to == 0,
            _ => to >= from && usize::from(to) < COEFFICIENTS && header.components.len() == 1,
        };
        let refines = had == 0 || lacks + 1 == had;
        if !is_known || !refines || lacks > 13 || header.components.is_empty() {
            return None;
        }
        for component in &header.components {
            let lacking = &mut self.lacking[component.place];
            if from > 0 && lacking[0].is_none() {
                return None;
            }
            for coefficient in &mut lacking[usize::from(from)..=usize::from(to)] {
                if coefficient.unwrap_or(0) != had {
                    return None;
                }
                *coefficient = Some(lacks);
            }
            if self.quanta[component.place].is_none() {
                let described = &tables.frame()?.components[component.place];
                self.quanta[component.place] = Some(tables.quanta(described)?[0].into());
            }
        }
        Some(())
    }

    /// Takes in the data of a scan of DC coefficients, and gives what follows them.
    fn scan<'a>(&mut self, tables: &Tables<'_>, header: &ScanHeader, data: &'a [u8]) -> Option<&'a [u8]> {
        let &ScanHeader { ref components, approximation: (had, lacks), .. } = header;
        let mut bits = Bits::new(data);
        let mut codes = [const { None }; 3];
        for component in components.iter().filter(|_| had == 0) {
            codes[component.place] = Some(DcTable::new(tables.dc(*component)?)?);
        }
        let is_alone = components.len() == 1;
        let units = if is_alone { self.own[components.first()?.place] } else { self.units };
        let mut predicted = [0_i32; 3];
        let mut restarts = Restarts::every(tables.restart_interval());
        for (y, x) in (0..units.height).flat_map(|y| (0..units.width).map(move |x| (y, x))) {
            if restarts.pass(&mut bits)? {
                predicted = [0; 3];
            }
            for place in components.iter().map(|component| component.place) {
                let (across, down) = if is_alone { (1, 1) } else { self.sampling[place] };
                let stride = self.stored[place].width;
                for row in y * down..(y + 1) * down {
                    let first = self.first(place) + (row * stride + x * across) as usize;
                    for coefficient in self.coefficients.get_mut(first..first + across as usize)? {
                        match &codes[place] {
                            Some(codes) => {
                                predicted[place] += bits.difference(codes)?;
                                *coefficient = i16::try_from(i64::from(predicted[place]) << lacks).ok()?;
                            }
                            None => *coefficient |= i16::from(bits.bit()?) << lacks,
                        }
                    }
                }
            }
        }
        bits.ends_with_the_scan()
    }

    /// Where a component's coefficients begin.
    fn first(&self, place: usize) -> usize {
        self.stored[..place].iter().map(|size| size.pixels() as usize).sum()
    }

    fn are_complete(&self) -> bool {
        self.lacking.as_flattened().iter().all(|&lacks| lacks == Some(0))
    }

    fn samples(self) -> Option<Vec<u8>> {
        let mut samples = Vec::with_capacity(self.coefficients.len());
        for place in 0..3 {
            let quantum = self.quanta[place]?;
            let first = self.first(place);
            let blocks = self.coefficients.get(first..first + self.stored[place].pixels() as usize)?;
            for &coefficient in blocks {
                samples.push(sample(coefficient, quantum)?);
            }
        }
        Some(samples)
    }
}

#[cfg(test)]
mod tests {
    use turbojpeg::Subsamp;

    use super::super::trial::{self, Coding, KINDS, Pair, coded, damage};
    use super::*;

    fn both(source: &[u8], size: (usize, usize), subsamp: Subsamp) -> Pair {
        trial::both(decode, source, size, subsamp)
    }

    #[test]
    fn every_sampling_size_and_quality_is_what_libjpeg_makes_of_it() {
        let mut random = fastrand::Rng::with_seed(1);
        for subsamp in KINDS {
            for size in [(1, 1), (8, 8), (9, 17), (63, 64), (129, 40), (200, 311), (640, 33)] {
                for quality in [1, 30, 75, 92, 100] {
                    let coding = Coding { quality, subsamp, optimize: true, progressive: true };
                    let source = coded(size, coding, &mut random);
                    let (ours, plain) = both(&source, size, subsamp);
                    assert!(ours.is_some(), "{subsamp:?} {size:?} {quality}");
                    assert!(ours == plain, "{subsamp:?} {size:?} {quality}");
                }
            }
        }
    }

    /// What is damaged is left to libjpeg, or comes to what libjpeg makes of it, or to what it would be without the damage.
    #[test]
    fn damage_is_seen_wherever_it_would_be_seen_in_the_picture() {
        let mut random = fastrand::Rng::with_seed(2);
        let (mut made, mut left, mut beside) = (0, 0, 0);
        for round in 0..4_000 {
            let subsamp = KINDS[round % 4];
            let size = (random.usize(1..90), random.usize(1..70));
            let coding = Coding { quality: random.i32(5..=100), subsamp, optimize: true, progressive: true };
            let whole = coded(size, coding, &mut random);
            let mut source = whole.clone();
            damage(&mut source, 1, &mut random);
            match both(&source, size, subsamp) {
                (Some(ours), Some(plain)) => {
                    assert!(ours == plain, "round {round}: {subsamp:?} {size:?}");
                    made += 1;
                }
                (Some(ours), None) => {
                    assert!(Some(ours) == both(&whole, size, subsamp).1, "round {round}: {subsamp:?} {size:?}");
                    beside += 1;
                }
                (None, _) => left += 1,
            }
        }
        assert!(
            made > 100 && left > 1_000 && beside > 100,
            "{made} as libjpeg, {left} left to it, {beside} beside damage"
        );
    }

    /// A file of arbitrary DC coefficients in scans of one's choice, and no other coefficient.
    struct Scans {
        size: (u16, u16),
        sampling: (u8, u8),
        restart_interval: u16,
        /// Components, and bits that earlier scans and this one leave out.
        dc: Vec<(Vec<usize>, u8, u8)>,
        ac: Vec<usize>,
    }

    #[derive(Default)]
    struct Written {
        bytes: Vec<u8>,
        bits: u32,
        count: u32,
    }

    impl Written {
        fn put(&mut self, value: u32, count: u32) {
            for at in (0..count).rev() {
                self.bits = self.bits << 1 | (value >> at & 1);
                self.count += 1;
                if self.count == 8 {
                    self.bytes.push(self.bits as u8);
                    if self.bits == 0xFF {
                        self.bytes.push(0);
                    }
                    (self.bits, self.count) = (0, 0);
                }
            }
        }

        fn pad(&mut self) {
            while self.count > 0 {
                self.put(1, 1);
            }
        }
    }

    impl Scans {
        fn write(&self, random: &mut fastrand::Rng) -> Vec<u8> {
            let (width, height) = (u32::from(self.size.0), u32::from(self.size.1));
            let (across, down) = (u32::from(self.sampling.0), u32::from(self.sampling.1));
            let units = (width.div_ceil(8 * across), height.div_ceil(8 * down));
            let mut out = b"\xFF\xD8\xFF\xDB\0\x43\0".to_vec();
            out.extend([7; 64]);
            let [h1, h0] = self.size.1.to_be_bytes();
            let [w1, w0] = self.size.0.to_be_bytes();
            let sampling = self.sampling.0 << 4 | self.sampling.1;
            out.extend([0xFF, 0xC2, 0, 17, 8, h1, h0, w1, w0, 3, 1, sampling, 0, 2, 0x11, 0, 3, 0x11, 0]);
            // Twelve categories in four bits each, and the end of a block in one.
            out.extend(
                b"\xFF\xC4\0\x1F\0\0\0\0\x0C\0\0\0\0\0\0\0\0\0\0\0\0"
                    .iter()
                    .chain(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
            );
            out.extend(b"\xFF\xC4\0\x14\x10\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
            let [i1, i0] = self.restart_interval.to_be_bytes();
            out.extend([0xFF, 0xDD, 0, 4, i1, i0]);
            let grid = |place: usize| if place == 0 { (units.0 * across, units.1 * down) } else { units };
            let values: Vec<Vec<i32>> = (0..3)
                .map(|place| (0..grid(place).0 * grid(place).1).map(|_| random.i32(-150..150)).collect())
                .collect();
            let own = |place: usize| match place {
                0 => (width.div_ceil(8), height.div_ceil(8)),
                _ => units,
            };
            let scans = self.dc.iter().map(|(places, had, lacks)| (places.clone(), (0, 0), *had, *lacks));
            for (places, (from, to), had, lacks) in
                scans.chain(self.ac.iter().map(|&place| (vec![place], (1, 63), 0, 0)))
            {
                out.extend([0xFF, 0xDA, 0, 6 + 2 * places.len() as u8, places.len() as u8]);
                places.iter().for_each(|&place| out.extend([place as u8 + 1, 0]));
                out.extend([from, to, had << 4 | lacks]);
                let alone = places.len() == 1;
                let (units_across, units_down) = if alone { own(places[0]) } else { units };
                let (mut bits, mut predicted, mut count, mut restarts) = (Written::default(), [0; 3], 0, 0);
                for (y, x) in (0..units_down).flat_map(|y| (0..units_across).map(move |x| (y, x))) {
                    if self.restart_interval > 0 && count == self.restart_interval {
                        bits.pad();
                        bits.bytes.extend([0xFF, 0xD0 + restarts]);
                        (predicted, count, restarts) = ([0; 3], 0, (restarts + 1) % 8);
                    }
                    count += 1;
                    for &place in &places {
                        let (across, down) = if alone || place > 0 { (1, 1) } else { (across, down) };
                        for (row, column) in (0..down).flat_map(|row| (0..across).map(move |column| (row, column))) {
                            let value =
                                values[place][((y * down + row) * grid(place).0 + x * across + column) as usize];
                            match (from, had) {
                                (0, 0) => {
                                    let difference = (value >> lacks) - predicted[place];
                                    predicted[place] = value >> lacks;
                                    let category = 32 - difference.unsigned_abs().leading_zeros();
                                    bits.put(category, 4);
                                    bits.put((difference - i32::from(difference < 0)) as u32, category);
                                }
                                (0, _) => bits.put((value >> lacks & 1) as u32, 1),
                                _ => bits.put(0, 1),
                            }
                        }
                    }
                }
                bits.pad();
                out.extend(bits.bytes);
            }
            out.extend([0xFF, 0xD9]);
            out
        }
    }

    #[test]
    fn scans_in_any_order_come_to_what_libjpeg_makes_of_them() {
        let mut random = fastrand::Rng::with_seed(5);
        let orders: [Vec<(Vec<usize>, u8, u8)>; 4] = [
            vec![(vec![0, 1, 2], 0, 0)],
            vec![(vec![0], 0, 0), (vec![1], 0, 0), (vec![2], 0, 0)],
            vec![(vec![0], 0, 2), (vec![1, 2], 0, 1), (vec![0], 2, 1), (vec![0, 1, 2], 1, 0)],
            vec![
                (vec![1], 0, 0),
                (vec![0, 2], 0, 3),
                (vec![0], 3, 2),
                (vec![2], 3, 2),
                (vec![0, 2], 2, 1),
                (vec![0, 2], 1, 0),
            ],
        ];
        let kinds = [(1, 1), (2, 1), (1, 2), (2, 2)];
        for ((&subsamp, sampling), dc) in
            KINDS.iter().zip(kinds).flat_map(|kind| orders.iter().map(move |dc| (kind, dc)))
        {
            for (size, restart_interval) in [((1, 1), 0), ((40, 24), 1), ((33, 57), 0), ((200, 90), 7), ((17, 130), 9)]
            {
                let mut scans = Scans { size, sampling, restart_interval, dc: dc.clone(), ac: vec![2, 0, 1] };
                let sides = (size.0.into(), size.1.into());
                let source = scans.write(&mut random);
                let (ours, plain) = both(&source, sides, subsamp);
                assert!(ours.is_some() && ours == plain, "{subsamp:?} {size:?} {restart_interval} {dc:?}");
                // What lacks a scan is libjpeg's.
                scans.ac.pop();
                assert_eq!(both(&scans.write(&mut random), sides, subsamp).0, None);
                (scans.ac, scans.dc) = (vec![0, 1, 2], dc[..dc.len() - 1].to_vec());
                if !scans.dc.is_empty() {
                    assert_eq!(both(&scans.write(&mut random), sides, subsamp).0, None);
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_cut_off_is_libjpegs() {
        let mut random = fastrand::Rng::with_seed(7);
        let size = (64, 48);
        let coding = Coding { quality: 80, subsamp: Subsamp::Sub2x2, optimize: true, progressive: true };
        let source = coded(size, coding, &mut random);
        assert!(both(&source, size, Subsamp::Sub2x2).0.is_some());
        for length in 0..source.len() - 1 {
            assert_eq!(both(&source[..length], size, Subsamp::Sub2x2).0, None, "{length}");
        }
    }
}
