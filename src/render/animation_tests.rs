//! Animations made here, read frame by frame and written again.

use std::{borrow::Cow, io::Cursor, time::Duration};

use gif::DisposalMethod;
use image::AnimationDecoder;
use proptest::prelude::*;

use super::{
    RenderError,
    codec::animation::{Frame, Frames, Moving, Plays},
    picture::{Layout, Picture},
    plan::{Encoding, Plan},
    probe,
    tests::plan_for,
};
use crate::{model::Size, spec::Quality};

const RED: [u8; 4] = [200, 0, 0, 255];
const GREEN: [u8; 4] = [0, 180, 0, 255];
const BLUE: [u8; 4] = [0, 0, 160, 255];
const HOLE: [u8; 4] = [0; 4];
const MOST_BYTES: u64 = 50 << 20;

fn lossy() -> Encoding {
    Encoding::Webp { quality: Quality::new(90).unwrap() }
}

/// What is seen, as RGBA, and for how many milliseconds.
type Shown = Vec<(Vec<u8>, u64)>;

fn read(file: &[u8]) -> Result<(Plays, Shown), RenderError> {
    let plan = plan_for(file, "original").unwrap();
    let mut frames = Frames::open(file, &plan)?;
    let mut shown = Vec::new();
    while let Some(Frame { picture, delay }) = frames.next()? {
        assert_eq!(picture.size, plan.source.stored_size);
        shown.push((rgba(picture), delay.as_millis() as u64));
    }
    Ok((frames.plays(), shown))
}

fn rgba(picture: Picture) -> Vec<u8> {
    match picture.layout {
        Layout::Rgb8 => picture.mapped(Layout::Rgba8, |[r, g, b]: [u8; 3]| [r, g, b, 255]).pixels,
        _ => picture.pixels,
    }
}

fn write(size: Size, plays: Plays, encoding: Encoding, shown: &Shown) -> Vec<u8> {
    let mut moving = Moving::new(size, plays, encoding, MOST_BYTES).unwrap();
    for (pixels, delay) in shown {
        let picture = Picture { size, layout: Layout::Rgba8, pixels: pixels.clone(), profile: None };
        moving.add(Frame { picture, delay: Duration::from_millis(*delay) }).unwrap();
    }
    moving.finish().unwrap()
}

/// A part of a canvas, in one colour.
struct Part {
    at: (u16, u16),
    size: (u16, u16),
    color: [u8; 4],
    dispose: DisposalMethod,
    delay: u16,
}

fn part(at: (u16, u16), size: (u16, u16), color: [u8; 4], dispose: DisposalMethod, delay: u16) -> Part {
    Part { at, size, color, dispose, delay }
}

/// Everything that disposal can do, on a canvas of 8 x 6.
fn all_disposals() -> Vec<Part> {
    use DisposalMethod::{Any, Background, Keep, Previous};
    vec![
        part((0, 0), (8, 6), RED, Keep, 10),
        part((1, 1), (3, 3), GREEN, Previous, 0),
        part((2, 2), (4, 3), BLUE, Background, 1),
        part((0, 0), (2, 6), HOLE, Any, 7),
        part((6, 4), (2, 2), GREEN, Previous, 65_535),
        part((5, 3), (3, 3), BLUE, Previous, 3),
        part((0, 0), (8, 6), GREEN, Background, 3),
        part((3, 3), (1, 1), RED, Keep, 3),
    ]
}

fn gif_of(size: (u16, u16), parts: &[Part], repeat: Option<gif::Repeat>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, size.0, size.1, &[]).unwrap();
    if let Some(repeat) = repeat {
        encoder.set_repeat(repeat).unwrap();
    }
    for part in parts {
        let pixels = usize::from(part.size.0) * usize::from(part.size.1);
        // A hole in the first pixel of every frame but the first.
        let mut indices = vec![u8::from(part.color == HOLE); pixels];
        if part.at != (0, 0) {
            indices[0] = 1;
        }
        let frame = gif::Frame {
            left: part.at.0,
            top: part.at.1,
            width: part.size.0,
            height: part.size.1,
            palette: Some([&part.color[..3], &[9, 9, 9]].concat()),
            transparent: (part.color == HOLE || part.at != (0, 0)).then_some(1),
            buffer: Cow::Owned(indices),
            dispose: part.dispose,
            delay: part.delay,
            ..gif::Frame::default()
        };
        encoder.write_frame(&frame).unwrap();
    }
    drop(encoder);
    bytes
}

/// The frames as the `image` crate shows them.
fn by_image_crate(gif: &[u8]) -> Vec<Vec<u8>> {
    let decoder = image::codecs::gif::GifDecoder::new(Cursor::new(gif)).unwrap();
    decoder.into_frames().map(|frame| frame.unwrap().into_buffer().into_raw()).collect()
}

/// Invisible pixels are all alike.
fn seen(pixels: &[u8]) -> Vec<[u8; 4]> {
    pixels.as_chunks::<4>().0.iter().map(|&pixel| if pixel[3] == 0 { HOLE } else { pixel }).collect()
}

#[test]
fn gif_disposal_is_as_others_show_it() {
    let gif = gif_of((8, 6), &all_disposals(), None);
    let (_, shown) = read(&gif).unwrap();
    let wanted = by_image_crate(&gif);
    assert_eq!(shown.len(), 8);
    for (i, ((pixels, _), wanted)) in shown.iter().zip(&wanted).enumerate() {
        assert_eq!(seen(pixels), seen(wanted), "frame {i}");
    }
    let delays: Vec<u64> = shown.iter().map(|(_, delay)| *delay).collect();
    assert_eq!(delays, [100, 0, 10, 70, 655_350, 30, 30, 30]);
}

#[test]
fn a_vector_is_read_as_others_read_it() {
    let gif = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/images/anim.gif")).unwrap();
    let (_, shown) = read(&gif).unwrap();
    let wanted = by_image_crate(&gif);
    assert_eq!(shown.len(), wanted.len());
    for ((pixels, _), wanted) in shown.iter().zip(&wanted) {
        assert_eq!(seen(pixels), seen(wanted));
    }
}

#[test]
fn every_format_shows_what_the_source_showed() {
    let size = Size::new(8, 6);
    let gif = gif_of((8, 6), &all_disposals(), Some(gif::Repeat::Finite(2)));
    let (plays, shown) = read(&gif).unwrap();
    assert_eq!(plays, Plays::Times(3));
    for encoding in [Encoding::Gif, Encoding::WebpLossless] {
        let file = write(size, plays, encoding, &shown);
        let (plays, again) = read(&file).unwrap();
        assert_eq!(plays, Plays::Times(3), "{encoding:?}");
        assert_eq!(again.len(), shown.len());
        for (i, (a, b)) in shown.iter().zip(&again).enumerate() {
            assert_eq!((seen(&a.0), a.1), (seen(&b.0), b.1), "{encoding:?}, frame {i}");
        }
    }
    let (_, again) = read(&write(size, plays, lossy(), &shown)).unwrap();
    for (a, b) in shown.iter().zip(&again) {
        assert_eq!((a.0.len(), a.1), (b.0.len(), b.1));
        let alpha = |pixels: &[u8]| pixels.iter().skip(3).step_by(4).copied().collect::<Vec<_>>();
        assert_eq!(alpha(&a.0), alpha(&b.0));
    }
    // What we write others show alike.
    let file = write(size, plays, Encoding::Gif, &shown);
    for ((pixels, _), wanted) in shown.iter().zip(by_image_crate(&file)) {
        assert_eq!(seen(pixels), seen(&wanted));
    }
}

/// The number in the file: `None` where the extension is absent.
fn netscape(gif: &[u8]) -> Option<u16> {
    let at = gif.windows(11).position(|window| window == b"NETSCAPE2.0")?;
    Some(u16::from_le_bytes([gif[at + 13], gif[at + 14]]))
}

fn anim(webp: &[u8]) -> u16 {
    let at = webp.windows(4).position(|window| window == b"ANIM").unwrap();
    u16::from_le_bytes([webp[at + 12], webp[at + 13]])
}

#[test]
fn loops_are_counted_as_each_format_counts_them() {
    let size = Size::new(1, 1);
    let shown: Shown = vec![(RED.to_vec(), 100), (BLUE.to_vec(), 100)];
    let parts = [RED, BLUE].map(|color| part((0, 0), (1, 1), color, DisposalMethod::Keep, 10));
    for (in_gif, plays, in_webp) in [
        (None, Plays::Times(1), 1),
        (Some(0), Plays::Forever, 0),
        (Some(1), Plays::Times(2), 2),
        (Some(3), Plays::Times(4), 4),
        (Some(u16::MAX - 1), Plays::Times(65_535), u16::MAX),
    ] {
        let repeat = in_gif.map(|n| if n == 0 { gif::Repeat::Infinite } else { gif::Repeat::Finite(n) });
        let gif = gif_of((1, 1), &parts, repeat);
        assert_eq!(netscape(&gif), in_gif);
        assert_eq!(read(&gif).unwrap().0, plays);
        let (gif, webp) = (write(size, plays, Encoding::Gif, &shown), write(size, plays, lossy(), &shown));
        assert_eq!((netscape(&gif), anim(&webp)), (in_gif, in_webp));
        assert_eq!(read(&webp).unwrap().0, plays);
    }
}

#[test]
fn frames_that_look_alike_stay_apart() {
    let size = Size::new(5, 4);
    let pixels = GREEN.repeat(20);
    let shown: Shown = (0..30).map(|i| (pixels.clone(), 20 + 10 * i)).collect();
    for encoding in [Encoding::Gif, Encoding::WebpLossless, lossy()] {
        let file = write(size, Plays::Forever, encoding, &shown);
        let (_, again) = read(&file).unwrap();
        let delays = |shown: &Shown| shown.iter().map(|(_, delay)| *delay).collect::<Vec<_>>();
        assert_eq!(delays(&again), delays(&shown), "{encoding:?}");
        assert!(file.len() < 30 * 100, "{encoding:?}: {}", file.len());
    }
}

#[test]
fn a_file_cut_off_is_damaged() {
    let gif = gif_of((8, 6), &all_disposals(), None);
    let (plays, shown) = read(&gif).unwrap();
    let webp = write(Size::new(8, 6), plays, Encoding::WebpLossless, &shown);
    for file in [&gif, &webp] {
        let plan = plan_for(file, "original").unwrap();
        for end in file.len() / 4..file.len() - 8 {
            let cut = &file[..end];
            let mut whole = 0;
            // A cut file has fewer frames to be counted: the plan was made for another one, or one frame is damaged.
            let failure = match Frames::open(cut, &Plan { source: probe(cut).unwrap(), ..plan.clone() }) {
                Ok(mut frames) => loop {
                    match frames.next() {
                        Ok(Some(_)) => whole += 1,
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                },
                Err(error) => Some(error),
            };
            assert!(whole < 8, "{end}");
            match failure {
                Some(error) => assert!(matches!(error, RenderError::Corrupt { .. }), "{end}: {error}"),
                None => assert!(probe(cut).unwrap().frames < 8, "{end}"),
            }
        }
        let end = file.len() - 30;
        let opened = Frames::open(&file[..end], &plan).map(drop);
        assert!(opened.is_ok() || opened == Err(RenderError::Changed));
    }
}

#[test]
fn a_gif_without_its_trailer_is_whole() {
    let gif = gif_of((8, 6), &all_disposals(), None);
    assert_eq!(gif.last(), Some(&0x3B));
    assert_eq!(read(&gif[..gif.len() - 1]).unwrap().1.len(), 8);
}

#[test]
fn what_is_reserved_is_not_exceeded() {
    let size = Size::new(64, 64);
    let noise: Shown = (0..20_u32)
        .map(|frame| {
            let mut state = frame + 1;
            let mut pixels = Vec::new();
            for _ in 0..64 * 64 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                pixels.extend_from_slice(&[(state >> 8) as u8, (state >> 16) as u8, (state >> 24) as u8, 255]);
            }
            (pixels, 40)
        })
        .collect();
    for encoding in [Encoding::Gif, Encoding::WebpLossless, lossy()] {
        let file = write(size, Plays::Forever, encoding, &noise);
        println!("{encoding:?}: {:.2} bytes a pixel of noise", file.len() as f64 / (20.0 * 4096.0));
        let mut moving = Moving::new(size, Plays::Forever, encoding, file.len() as u64 - 1).unwrap();
        let failure = noise.iter().find_map(|(pixels, _)| {
            let picture = Picture { size, layout: Layout::Rgba8, pixels: pixels.clone(), profile: None };
            moving.add(Frame { picture, delay: Duration::ZERO }).err()
        });
        let failure = failure.or_else(|| moving.finish().err());
        assert!(matches!(failure, Some(RenderError::Encode { .. })), "{encoding:?}: {failure:?}");
    }
}

prop_compose! {
    /// A canvas, and which colour each pixel of each frame has.
    fn sequences()(width in 1_u32..12, height in 1_u32..9)(
        frames in proptest::collection::vec(
            (proptest::collection::vec(0_usize..4, (width * height) as usize), 0_u64..400, any::<bool>()),
            2..9,
        ),
        size in Just(Size::new(width, height)),
    ) -> (Size, Shown) {
        let colors = [RED, GREEN, BLUE, HOLE];
        let mut last = vec![0; size.pixels() as usize];
        let shown = frames.into_iter().map(|(pixels, delay, alike)| {
            // Half of the frames change little.
            for (i, (last, new)) in last.iter_mut().zip(pixels).enumerate() {
                if !alike || i % 5 == 0 {
                    *last = new;
                }
            }
            (last.iter().flat_map(|&i| colors[i]).collect(), delay * 10)
        });
        (size, shown.collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_sequence_of_frames_survives((size, shown) in sequences(), plays in 0_u32..5) {
        let plays = if plays == 0 { Plays::Forever } else { Plays::Times(plays) };
        for encoding in [Encoding::Gif, Encoding::WebpLossless] {
            let file = write(size, plays, encoding, &shown);
            prop_assert_eq!(probe(&file).unwrap().frames as usize, shown.len());
            let (plays_again, again) = read(&file).unwrap();
            prop_assert_eq!(plays_again, plays);
            prop_assert_eq!(again.len(), shown.len());
            for (a, b) in shown.iter().zip(&again) {
                prop_assert_eq!((seen(&a.0), a.1), (seen(&b.0), b.1));
            }
        }
    }
}
