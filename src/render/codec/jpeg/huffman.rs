//! Huffman codes and the bits that are read by them.
//!
//! Numbers of clauses are those of ITU-T T.81.

/// Coefficients of a block.
pub const COEFFICIENTS: usize = 64;
/// Length of a Huffman code (C.2).
pub const MAX_CODE_BITS: u32 = 16;
/// Largest category of a difference between DC coefficients at 8 bits a sample (table F.1).
const MAX_DC_BITS: u32 = 11;
/// Most codes of differences are no longer.
const DC_LOOKUP_BITS: u32 = 9;

/// Huffman codes as they are written: how many there are of each length, and what they stand for (B.2.4.2).
#[derive(Clone, Copy)]
pub struct Codes<'a> {
    pub counts: &'a [u8; 16],
    pub symbols: &'a [u8],
}

impl Codes<'_> {
    /// Each code, its length and its symbol (C.2); `None` where there are more codes of a length than can be told apart, the one of
    /// ones alone left out.
    pub fn each(&self, mut take: impl FnMut(u32, u32, u8)) -> Option<()> {
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
pub struct Ordered {
    /// For each length: the first number of so many bits that is beyond its codes, at the left of 16 bits.
    beyond: [u32; 16],
    /// For each length: what takes a code to its symbol's place.
    offset: [i32; 16],
    symbols: Vec<u8>,
}

impl Ordered {
    pub fn new(codes: Codes<'_>) -> Option<Self> {
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
    pub fn find(&self, bits: u32) -> Option<(u32, u8)> {
        let at = self.beyond.iter().position(|&beyond| bits < beyond)?;
        let length = at as u32 + 1;
        let place = self.offset[at] + (bits >> (MAX_CODE_BITS - length)) as i32;
        Some((length, *self.symbols.get(usize::try_from(place).ok()?)?))
    }
}

/// Codes of the differences between DC coefficients.
pub struct DcTable {
    /// By prefix: length of the code, 0 where it is longer than the prefix, and category.
    prefixes: [(u8, u8); 1 << DC_LOOKUP_BITS],
    ordered: Ordered,
}

impl DcTable {
    pub fn new(codes: Codes<'_>) -> Option<Self> {
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

/// The number that the first bits are, at most 15 (F.2.2.1).
#[inline(always)]
pub fn extended(window: u64, bits: u32) -> i16 {
    if bits == 0 {
        return 0;
    }
    let value = (window >> (64 - bits)) as i32;
    (if value < 1 << (bits - 1) { value - (1 << bits) + 1 } else { value }) as i16
}

/// The coded bits, the first at the left.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    data: &'a [u8],
    /// Of the first byte that is not counted in.
    at: usize,
    pub window: u64,
    /// How many bits of the window count. Behind them may stand what follows, or zeros.
    count: u32,
}

/// How far bits have been read, where their data come in pieces.
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// Of the first byte that is not in the window.
    pub at: usize,
    window: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self::resumed(data, Place::default())
    }

    /// Goes on at a place.
    pub fn resumed(data: &'a [u8], Place { at, window, count }: Place) -> Self {
        // Of what stood behind the bits that count, more may be known now.
        let window = if count == 0 { 0 } else { window >> (64 - count) << (64 - count) };
        Self { data, at, window, count }
    }

    pub fn place(&self) -> Place {
        Place { at: self.at, window: self.window, count: self.count }
    }

    /// At least 32 bits, if there are as many before the next marker.
    #[inline(always)]
    pub fn fill(&mut self) {
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
        *self = self.filled_by_bytes();
    }

    /// A byte of ones is followed by one of zeros, which is none of the data, or is the beginning of a marker (B.1.1.5).
    ///
    /// By value, so that what is read in a loop may stay in registers.
    #[cold]
    #[inline(never)]
    fn filled_by_bytes(mut self) -> Self {
        while self.count <= 56 {
            let byte = match *self.data.get(self.at..).unwrap_or_default() {
                [0xFF, 0, ..] => {
                    self.at += 2;
                    0xFF
                }
                [0xFF, ..] | [] => break,
                [byte, ..] => {
                    self.at += 1;
                    byte
                }
            };
            self.window |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    #[inline(always)]
    pub fn skip(&mut self, bits: u32) -> Option<()> {
        self.count = self.count.checked_sub(bits)?;
        self.window <<= bits;
        Some(())
    }

    #[inline(always)]
    pub fn bit(&mut self) -> Option<bool> {
        self.fill();
        let bit = self.window >> 63 == 1;
        self.skip(1)?;
        Some(bit)
    }

    /// Between this block's DC coefficient and that of the one before (F.2.2.1).
    #[inline(always)]
    pub fn difference(&mut self, table: &DcTable) -> Option<i32> {
        self.fill();
        let (length, category) = match table.prefixes[(self.window >> (64 - DC_LOOKUP_BITS)) as usize] {
            (0, _) => table.ordered.find((self.window >> (64 - MAX_CODE_BITS)) as u32)?,
            (length, category) => (u32::from(length), category),
        };
        self.skip(length)?;
        let difference = extended(self.window, category.into());
        self.skip(category.into())?;
        Some(difference.into())
    }

    /// Past the marker that stands between restart intervals (B.2.1): fewer than eight bits before it, and it is the one expected.
    pub fn restart(&mut self, number: u8) -> Option<()> {
        self.at_marker(0xD0 + number).then_some(())?;
        *self = Self { data: self.data, at: self.at + 2, window: 0, count: 0 };
        Some(())
    }

    pub fn ends_with_the_image(&mut self) -> bool {
        self.at_marker(0xD9)
    }

    /// What follows the scan's data: fewer than eight bits before it, and a marker (B.1.1.5).
    pub fn ends_with_the_scan(self) -> Option<&'a [u8]> {
        let Self { data, at, count, .. } = self.filled_by_bytes();
        let rest = data.get(at..)?;
        (count < 8 && rest.first() == Some(&0xFF)).then_some(rest)
    }

    fn at_marker(&mut self, marker: u8) -> bool {
        *self = self.filled_by_bytes();
        self.count < 8 && self.data.get(self.at..).is_some_and(|rest| rest.starts_with(&[0xFF, marker]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
