//! The inverse DCT of a block of 8x8 coefficients to fewer samples: 4x4 or 2x2, as libjpeg reduces a picture.
//!
//! Both transforms are sums of products with constants of 13 bits after the point, first along columns, then along rows, rounded
//! after each. Between them two more bits are kept, and 16 bits in all; where a number does not fit it saturates.

use wide::{i16x8, i32x4, i32x8};

/// The coefficients of a block, each multiplied with its quantum.
///
/// Row 4 and column 4 count for nothing at either size, and rows and columns are only met in pairs: (0, 4), (1, 3), (2, 6) and
/// (5, 7). So coefficients lie, pair of rows by pair of rows, column by column, one of each row beside the other.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
pub struct Block([i16; 64]);

/// Where a coefficient lies, by its number in the order of transmission (ITU-T T.81, figure A.6).
pub static PLACES: [u8; 64] = places();

const PAIRED: [usize; 8] = [0, 4, 1, 3, 2, 6, 5, 7];
/// Bits after a constant's point.
const POINT: u32 = 13;
/// Bits more that are kept between both directions.
const KEPT: u32 = 2;
/// Of what a DCT multiplies everything with, in bits.
const SCALE: u32 = 3;

/// A constant with its bits after the point.
const fn fixed(value: f64) -> i16 {
    let scaled = value * (1 << POINT) as f64;
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i16
}

const fn places() -> [u8; 64] {
    let mut lies_at = [0; 8];
    let mut at = 0;
    while at < 8 {
        lies_at[PAIRED[at]] = at;
        at += 1;
    }
    let mut places = [0; 64];
    let (mut row, mut column) = (0, 0);
    let mut number = 0;
    while number < 64 {
        let (pair, second) = (lies_at[row] / 2, lies_at[row] % 2);
        places[number] = (pair * 16 + lies_at[column] * 2 + second) as u8;
        // Up to the right along even diagonals, down to the left along odd ones.
        if (row + column) % 2 == 0 {
            if column == 7 {
                row += 1;
            } else if row == 0 {
                column += 1;
            } else {
                (row, column) = (row - 1, column + 1);
            }
        } else if row == 7 {
            column += 1;
        } else if column == 0 {
            row += 1;
        } else {
            (row, column) = (row + 1, column - 1);
        }
        number += 1;
    }
    places
}

/// The same factors for every pair.
fn pairs(first: i16, second: i16) -> i16x8 {
    i16x8::new([first, second, first, second, first, second, first, second])
}

/// Pairs of lanes of four rows, or of what stands for them.
struct Paired {
    p04: i16x8,
    p13: i16x8,
    p26: i16x8,
    p57: i16x8,
}

impl Paired {
    /// Four samples of each, at the scale of the constants and twice that.
    #[inline(always)]
    fn four(&self) -> [i32x4; 4] {
        let mean = self.p04.dot(pairs(1 << POINT, 0)) << 1;
        let even = self.p26.dot(pairs(const { fixed(1.847_759_065) }, const { fixed(-0.765_366_865) }));
        let inner = self.p13.dot(pairs(const { fixed(1.061_594_337) }, const { fixed(-2.172_734_803) }))
            + self.p57.dot(pairs(const { fixed(1.451_774_981) }, const { fixed(-0.211_164_243) }));
        let outer = self.p13.dot(pairs(const { fixed(2.562_915_447) }, const { fixed(0.899_976_223) }))
            + self.p57.dot(pairs(const { fixed(-0.601_344_887) }, const { fixed(-0.509_795_579) }));
        let (near, far) = (mean + even, mean - even);
        [near + outer, far + inner, far - inner, near - outer]
    }

    /// Two samples of each, at the scale of the constants and four times that.
    #[inline(always)]
    fn two(&self) -> [i32x4; 2] {
        let mean = self.p04.dot(pairs(1 << POINT, 0)) << 2;
        let odd = self.p13.dot(pairs(const { fixed(3.624_509_785) }, const { fixed(-1.272_758_580) }))
            + self.p57.dot(pairs(const { fixed(0.850_430_095) }, const { fixed(-0.720_959_822) }));
        [mean + odd, mean - odd]
    }
}

#[inline(always)]
fn rounded(value: i32x4, bits: u32) -> i32x4 {
    (value + i32x4::splat(1 << (bits - 1))) >> bits
}

impl Default for Block {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Block {
    /// Without any coefficient again.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.0 = [0; 64];
    }

    /// Sets the coefficient at one of [`PLACES`].
    #[inline(always)]
    pub fn set(&mut self, place: u8, value: i16) {
        self.0[usize::from(place % 64)] = value;
    }

    #[inline(always)]
    fn pair(&self, pair: usize, half: usize) -> i16x8 {
        let from = pair * 16 + half * 8;
        i16x8::new(std::array::from_fn(|at| self.0[from + at]))
    }

    #[inline(always)]
    fn columns(&self, half: usize) -> Paired {
        Paired { p04: self.pair(0, half), p13: self.pair(1, half), p26: self.pair(2, half), p57: self.pair(3, half) }
    }

    /// 4x4 samples, row by row.
    pub fn to_4x4(&self) -> [u8; 16] {
        let (left, right) = (self.columns(0).four(), self.columns(1).four());
        let row = |at: usize| between(left[at], right[at], POINT + 1 - KEPT);
        let rows = [row(0), row(1), row(2), row(3)];
        let [a, b, c, d] = across(rows).four();
        let sampled = |column| samples(column, POINT + KEPT + SCALE + 1);
        let columns = [sampled(a), sampled(b), sampled(c), sampled(d)];
        std::array::from_fn(|at| columns[at % 4][at / 4])
    }

    /// 2x2 samples, row by row.
    pub fn to_2x2(&self) -> [u8; 4] {
        let (left, right) = (self.columns(0).two(), self.columns(1).two());
        let row = |at: usize| between(left[at], right[at], POINT + 2 - KEPT);
        let (first, second) = (row(0), row(1));
        let [left, right] = across([first, second, first, second]).two();
        let [left, right] = [left, right].map(|column| samples(column, POINT + KEPT + SCALE + 2));
        [left[0], right[0], left[1], right[1]]
    }
}

/// What is kept of a row between both directions.
#[inline(always)]
fn between(left: i32x4, right: i32x4, bits: u32) -> [i16; 8] {
    let both = i32x8::from([rounded(left, bits).to_array(), rounded(right, bits).to_array()].as_flattened());
    i16x8::from_i32x8_saturate(both).to_array()
}

/// The pairs of four rows.
#[inline(always)]
fn across(rows: [[i16; 8]; 4]) -> Paired {
    let pair = |at: usize| i16x8::new(std::array::from_fn(|lane| rows[lane / 2][2 * at + lane % 2]));
    Paired { p04: pair(0), p13: pair(1), p26: pair(2), p57: pair(3) }
}

#[inline(always)]
fn samples(values: i32x4, bits: u32) -> [u8; 4] {
    let signed = rounded(values, bits).max(i32x4::splat(-128)).min(i32x4::splat(127));
    (signed + i32x4::splat(128)).to_array().map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_everywhere() {
        for mean in [-1024_i16, -700, -4, 0, 3, 4, 512, 1016, 1023] {
            let mut block = Block::default();
            block.set(PLACES[0], mean);
            let sample = ((i32::from(mean) + 4) >> 3).clamp(-128, 127) + 128;
            assert_eq!((block.to_4x4(), block.to_2x2()), ([sample as u8; 16], [sample as u8; 4]), "{mean}");
        }
    }

    #[test]
    fn every_place_is_taken_once() {
        let mut places = PLACES;
        assert_eq!((places[0], places[1], places[2]), (0, 4, 16));
        places.sort_unstable();
        assert!(places.iter().enumerate().all(|(at, place)| at == usize::from(*place)));
    }
}
