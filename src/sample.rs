//! A photograph nobody took: what `demo` and the benches render when no other picture is at hand.

/// Pixels of RGB, 8 bits each, row by row: hills under an evening sky, the same for the same `seed`.
///
/// It is made to weigh on codecs like a photograph. Broad gradients, edges at all scales and a fine grain put a
/// 4000x3000 JPEG at quality 90 near 3 MB, as a camera's would be.
pub fn photo(width: u32, height: u32, seed: u64) -> Vec<u8> {
    let scene = Scene::new(width, height, seed);
    let mut pixels = vec![0; width as usize * height as usize * 3];
    let row_bytes = (width as usize * 3).max(1);
    let bands = std::thread::available_parallelism().map_or(1, usize::from);
    let band_rows = (height as usize).div_ceil(bands).max(1);
    std::thread::scope(|scope| {
        for (band, rows) in pixels.chunks_mut(row_bytes * band_rows).enumerate() {
            let scene = &scene;
            scope.spawn(move || {
                for (row, pixels) in rows.chunks_exact_mut(row_bytes).enumerate() {
                    scene.paint_row(band * band_rows + row, pixels);
                }
            });
        }
    });
    pixels
}

type Colour = [f32; 3];

/// Numbers that hold for the whole picture. Lengths are in units of its height.
struct Scene {
    seed: u32,
    unit: f32,
    sun: [f32; 2],
    /// From the farthest to the nearest.
    hills: Vec<Hill>,
}

/// One line of hills.
struct Hill {
    /// For each column, how far down its crest is.
    crest: Vec<f32>,
    colour: Colour,
    /// How strongly its surface is textured.
    relief: f32,
    seed: u32,
}

const HILLS: u32 = 5;
const HAZE: Colour = [198.0, 178.0, 176.0];
const MEADOW: Colour = [44.0, 62.0, 36.0];

impl Scene {
    fn new(width: u32, height: u32, seed: u64) -> Self {
        let seed = hash(seed as u32, (seed >> 32) as u32, 0x5EED);
        let unit = 1.0 / height.max(1) as f32;
        let hills = (0..HILLS)
            .map(|layer| {
                let near = layer as f32 / (HILLS - 1) as f32;
                let seed = hash(layer, seed, 1);
                let crest = (0..width)
                    .map(|x| {
                        let across = x as f32 * unit;
                        let swell = fractal(across * (1.2 + 1.6 * near), 7.5, 10, 0.52, seed);
                        0.40 + 0.42 * near - (0.30 - 0.10 * near) * (swell - 0.3)
                    })
                    .collect();
                Hill { crest, colour: mix(HAZE, MEADOW, 0.25 + 0.75 * near), relief: 26.0 + 104.0 * near, seed }
            })
            .collect();
        let across = width as f32 * unit;
        Self { seed, unit, sun: [across * (0.25 + 0.5 * unit_float(seed)), 0.27], hills }
    }

    fn paint_row(&self, y: usize, row: &mut [u8]) {
        let down = y as f32 * self.unit;
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let across = x as f32 * self.unit;
            let hill = self.hills.iter().rev().find(|hill| down >= hill.crest[x]);
            let colour = match hill {
                Some(hill) => hill.colour_at(across, down, down - hill.crest[x]),
                None => self.sky(across, down),
            };
            // A sensor's grain, of the same strength everywhere: two hashes make it bell-shaped enough.
            let noise = hash(x as u32, y as u32, self.seed);
            let grain = ((noise & 0xFFFF) as f32 + (noise >> 16) as f32) / 65_535.0 - 1.0;
            for (channel, value) in pixel.iter_mut().zip(colour) {
                *channel = (value + GRAIN * grain + 0.5).clamp(0.0, 255.0) as u8;
            }
        }
    }

    fn sky(&self, across: f32, down: f32) -> Colour {
        let air = mix([92.0, 128.0, 178.0], [246.0, 202.0, 160.0], (down * 1.9).min(1.0));
        let cloud = fractal(across * 1.6, down * 6.0, 5, 0.55, self.seed ^ 0xC10D);
        let lit = mix(air, [252.0, 232.0, 216.0], ((cloud - 0.5) * 2.4).clamp(0.0, 0.8));
        let distance = ((across - self.sun[0]).powi(2) + (down - self.sun[1]).powi(2)).sqrt();
        let glow = 1.0 / (1.0 + (distance * 9.0).powi(2));
        mix(lit, [255.0, 246.0, 224.0], if distance < 0.045 { 1.0 } else { glow })
    }
}

/// How far the grain moves a value at most, of 255.
const GRAIN: f32 = 10.0;

impl Hill {
    fn colour_at(&self, across: f32, down: f32, below_crest: f32) -> Colour {
        let texture = fractal(across * 24.0, down * 40.0, 6, 0.85, self.seed ^ 0x7E27) - 0.5;
        let mist = 0.35 * (-below_crest * 14.0).exp();
        let shade = self.relief * texture;
        let ground = [self.colour[0] + shade, self.colour[1] + 1.1 * shade, self.colour[2] + 0.7 * shade];
        mix(ground, HAZE, mist)
    }
}

fn mix(a: Colour, b: Colour, part: f32) -> Colour {
    [a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part, a[2] + (b[2] - a[2]) * part]
}

/// Several octaves of value noise, each twice as fine and `fade` times as strong; within 0 and 1.
fn fractal(x: f32, y: f32, octaves: u32, fade: f32, seed: u32) -> f32 {
    let (mut sum, mut reach, mut weight, mut scale) = (0.0, 0.0, 1.0, 1.0);
    for octave in 0..octaves {
        sum += weight * value_noise(x * scale, y * scale, seed.wrapping_add(octave));
        reach += weight;
        weight *= fade;
        scale *= 2.0;
    }
    sum / reach
}

/// Random values on a grid, blended smoothly between its points; coordinates are not negative.
fn value_noise(x: f32, y: f32, seed: u32) -> f32 {
    let (column, row) = (x as u32, y as u32);
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (across, down) = (smooth(x - column as f32), smooth(y - row as f32));
    let corner = |dx, dy| unit_float(hash(column + dx, row + dy, seed));
    let top = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * across;
    let bottom = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * across;
    top + (bottom - top) * down
}

fn unit_float(bits: u32) -> f32 {
    (bits >> 8) as f32 / (1 << 24) as f32
}

/// Three numbers stirred into one: the finaliser of MurmurHash3 over their odd multiples.
fn hash(a: u32, b: u32, seed: u32) -> u32 {
    let mut h = a.wrapping_mul(0x9E37_79B1) ^ b.wrapping_mul(0x85EB_CA77) ^ seed.wrapping_mul(0xC2B2_AE3D);
    h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B);
    h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_paints_the_same_picture() {
        let first = photo(160, 120, 7);
        assert_eq!(first.len(), 160 * 120 * 3);
        assert_eq!(first, photo(160, 120, 7));
        assert_ne!(first, photo(160, 120, 8));
    }

    #[test]
    fn it_is_neither_flat_nor_noise() {
        let (width, height) = (400, 300);
        let pixels = photo(width, height, 1);
        let green = |x: u32, y: u32| f64::from(pixels[((y * width + x) * 3 + 1) as usize]);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let sky: Vec<f64> = (0..width).map(|x| green(x, 5)).collect();
        let meadow: Vec<f64> = (0..width).map(|x| green(x, height - 5)).collect();
        assert!(mean(&sky) > mean(&meadow) + 40.0, "the sky is brighter than the meadow");
        let steps: Vec<f64> = (1..width).map(|x| (green(x, 5) - green(x - 1, 5)).abs()).collect();
        assert!((1.0..20.0).contains(&mean(&steps)), "grain, and no more: {}", mean(&steps));
    }

    #[test]
    fn odd_and_empty_sizes_are_fine() {
        assert_eq!(photo(0, 0, 1).len(), 0);
        assert_eq!(photo(1, 1, 1).len(), 3);
        assert_eq!(photo(7, 3, u64::MAX).len(), 63);
        assert_eq!(photo(0, 5, 1).len(), 0);
    }
}
