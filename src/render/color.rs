//! Colours of a profile as sRGB, for outputs that cannot carry the profile.
//!
//! Inks are converted for every output: no format that is written here keeps them, and browsers read no profile of inks.
//! A profile that says nothing usable is left out, as if there were none.

use moxcms::{ColorProfile, Layout as Channels, TransformOptions};

use super::{
    picture::{Layout, Picture},
    plan::Encoding,
};

/// The picture in colours that a screen shows and the encoding can tell, CMYK without a profile by Pillow's simple rule.
pub fn for_output(picture: Picture, encoding: Encoding) -> Picture {
    let carried = match picture.layout {
        Layout::Cmyk8 => false,
        Layout::Rgb8 | Layout::Rgba8 => !matches!(encoding, Encoding::Gif | Encoding::Ico),
        // WebP has no gray, and so no place for a profile of gray.
        Layout::Gray8 | Layout::GrayAlpha8 | Layout::Gray16 => {
            !matches!(encoding, Encoding::Gif | Encoding::Ico | Encoding::Webp { .. } | Encoding::WebpLossless)
        }
    };
    if carried {
        return picture;
    }
    match converted(&picture) {
        Some(converted) => converted,
        None => Picture { profile: None, ..picture.into_screen_colours() },
    }
}

/// By the profile, to sRGB. `None` where there is none, or none that can be used.
fn converted(picture: &Picture) -> Option<Picture> {
    let profile = ColorProfile::new_from_slice(picture.usable_profile()?).ok()?;
    let deep;
    let source = match picture.layout {
        Layout::Gray16 => {
            deep = picture.clone().into_8_bits();
            &deep
        }
        _ => picture,
    };
    let (from, to, layout) = match source.layout {
        Layout::Gray8 | Layout::Gray16 => (Channels::Gray, Channels::Rgb, Layout::Rgb8),
        Layout::GrayAlpha8 => (Channels::GrayAlpha, Channels::Rgba, Layout::Rgba8),
        Layout::Rgb8 => (Channels::Rgb, Channels::Rgb, Layout::Rgb8),
        Layout::Rgba8 => (Channels::Rgba, Channels::Rgba, Layout::Rgba8),
        // Four inks lie in memory as four colours would.
        Layout::Cmyk8 => (Channels::Rgba, Channels::Rgb, Layout::Rgb8),
    };
    let transform =
        profile.create_transform_8bit(from, &ColorProfile::new_srgb(), to, TransformOptions::default()).ok()?;
    let mut converted = Picture::blank(source.size, layout);
    transform.transform(&source.pixels, &mut converted.pixels).ok()?;
    Some(converted)
}

#[cfg(test)]
mod tests {
    use moxcms::{DataColorSpace, LutDataType, LutStore, LutType, LutWarehouse, Matrix3d, ProfileClass, ToneReprCurve};

    use super::*;
    use crate::{model::Size, spec::Quality};

    const SIZE: Size = Size { width: 2, height: 1 };

    fn picture(layout: Layout, pixels: &[u8], profile: &ColorProfile) -> Picture {
        Picture { size: SIZE, layout, pixels: pixels.to_vec(), profile: Some(profile.encode().unwrap()) }
    }

    #[test]
    fn a_wide_gamut_is_narrowed_where_the_profile_is_lost() {
        let p3 = ColorProfile::new_display_p3();
        let original = picture(Layout::Rgba8, &[180, 90, 60, 255, 128, 128, 128, 7], &p3);
        for encoding in [Encoding::Gif, Encoding::Ico] {
            let found = for_output(original.clone(), encoding);
            assert!((found.layout, &found.profile) == (Layout::Rgba8, &None));
            let [red, green, blue, opaque, ref gray @ ..] = found.pixels[..] else { panic!("{:?}", found.pixels) };
            // P3's red is redder than sRGB can name.
            assert!(red > 185 && green < 90 && blue < 60 && opaque == 255, "{:?}", found.pixels);
            assert!(gray[..3].iter().all(|value| value.abs_diff(128) <= 1) && gray[3] == 7, "{gray:?}");
        }
        let kept = for_output(original.clone(), Encoding::Png);
        assert!(kept.pixels == original.pixels && kept.profile == original.profile);
    }

    #[test]
    fn linear_gray_is_brightened_where_the_profile_is_lost() {
        let mut linear = ColorProfile::new_gray_with_gamma(1.0);
        linear.gray_trc = Some(ToneReprCurve::Parametric(vec![1.0]));
        let original = picture(Layout::Gray8, &[0, 55], &linear);
        let found = for_output(original.clone(), Encoding::Webp { quality: Quality::new(80).unwrap() });
        assert_eq!(found.layout, Layout::Rgb8);
        assert!(found.pixels[..3] == [0; 3] && found.pixels[3..].iter().all(|value| (126..=130).contains(value)));
        assert_eq!(for_output(original.clone(), Encoding::Png).pixels, original.pixels);
    }

    /// Inks of a printer that has only black: the other three do nothing.
    fn black_only() -> ColorProfile {
        let lightness = |index: u16| if index & 1 == 0 { [0xFF00, 0x8000, 0x8000] } else { [0, 0x8000, 0x8000] };
        let identity = |channels: usize| LutStore::Store16([0_u16, 0xFFFF].repeat(channels));
        let mut profile = ColorProfile::new_srgb();
        (profile.color_space, profile.pcs) = (DataColorSpace::Cmyk, DataColorSpace::Lab);
        profile.profile_class = ProfileClass::OutputDevice;
        (profile.red_trc, profile.green_trc, profile.blue_trc, profile.cicp) = (None, None, None, None);
        profile.lut_a_to_b_perceptual = Some(LutWarehouse::Lut(LutDataType {
            num_input_channels: 4,
            num_output_channels: 3,
            num_clut_grid_points: 2,
            matrix: Matrix3d::IDENTITY,
            num_input_table_entries: 2,
            num_output_table_entries: 2,
            input_table: identity(4),
            clut_table: LutStore::Store16((0..16).flat_map(lightness).collect()),
            output_table: identity(3),
            lut_type: LutType::Lut16,
        }));
        profile
    }

    #[test]
    fn inks_are_what_their_profile_says_for_every_output() {
        let original = picture(Layout::Cmyk8, &[255, 0, 0, 0, 0, 0, 0, 255], &black_only());
        for encoding in
            [Encoding::Png, Encoding::Jpeg { quality: Quality::new(80).unwrap(), progressive: false, rgb: true }]
        {
            let found = for_output(original.clone(), encoding);
            assert!((found.layout, &found.profile) == (Layout::Rgb8, &None));
            let (paper, black) = found.pixels.split_at(3);
            assert!(paper.iter().all(|value| *value > 250), "cyan is nothing here: {paper:?}");
            assert!(black.iter().all(|value| *value < 5), "{black:?}");
        }
    }

    #[test]
    fn a_profile_that_says_nothing_is_none() {
        let mut broken = picture(Layout::Cmyk8, &[255, 0, 0, 0, 0, 0, 0, 255], &black_only());
        for length in [0, 20, 128, 140, 300] {
            broken.profile.as_mut().unwrap().truncate(300);
            let cut = Picture {
                profile: broken.profile.clone().map(|mut profile| {
                    profile.truncate(length);
                    profile
                }),
                ..broken.clone()
            };
            assert_eq!(for_output(cut, Encoding::Png).pixels, [0, 255, 255, 0, 0, 0], "{length}");
        }
        broken.profile = None;
        assert_eq!(for_output(broken, Encoding::Gif).pixels, [0, 255, 255, 0, 0, 0]);
    }
}
