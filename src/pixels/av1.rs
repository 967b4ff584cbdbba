//! rav1e for still pictures.

use rav1e::{
    color::{
        ChromaSampling, ColorDescription, ColorPrimaries, MatrixCoefficients, PixelRange, TransferCharacteristics,
    },
    config::SpeedSettings,
    prelude::{
        BlockSize, Config, Context, EncoderConfig, EncoderStatus, PartitionRange, Pixel, Rational, SceneDetectionSpeed,
        Tune,
    },
};

/// A picture in planes, one byte a sample in full range, without padding between rows.
pub struct Still<'a> {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// What the planes mean.
    pub planes: Planes<'a>,
    /// Whether a profile says what the colours are; else they are sRGB.
    pub profiled: bool,
}

/// The samples.
pub enum Planes<'a> {
    /// Brightness, or opacity.
    Gray(&'a [u8]),
    /// Brightness and two colour differences by ITU-R BT.601, these for every square of four pixels.
    Subsampled([&'a [u8]; 3]),
    /// Red, green, blue.
    Rgb([&'a [u8]; 3]),
}

/// What the encoder is told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// 1 to 255, the finest first.
    pub quantizer: u8,
    /// Bits of a coded sample: 8, or 10 with the bytes widened.
    pub depth: u8,
    /// Side of the smallest block, 4, 8 or 16; the largest is 16, or 4 where the smallest is.
    pub smallest_block: u8,
    /// Whether errors weigh as they are seen, or all the same.
    pub psychovisual: bool,
}

/// A coded frame.
pub struct Coded {
    /// AV1CodecConfigurationRecord.
    pub configuration: Vec<u8>,
    /// The sequence header and the frame.
    pub data: Vec<u8>,
}

/// Colour numbers of ITU-T H.273 that a container has to repeat: primaries, transfer, matrix.
pub fn cicp(still: &Still<'_>) -> [u16; 3] {
    let ColorDescription { color_primaries, transfer_characteristics, matrix_coefficients } = description(still);
    [color_primaries as u16, transfer_characteristics as u16, matrix_coefficients as u16]
}

fn description(still: &Still<'_>) -> ColorDescription {
    // Where there is a profile, these two would only contradict it.
    let (color_primaries, transfer_characteristics) = match still.profiled {
        true => (ColorPrimaries::Unspecified, TransferCharacteristics::Unspecified),
        false => (ColorPrimaries::BT709, TransferCharacteristics::SRGB),
    };
    let matrix_coefficients = match still.planes {
        Planes::Gray(_) | Planes::Subsampled(_) => MatrixCoefficients::BT601,
        Planes::Rgb(_) => MatrixCoefficients::Identity,
    };
    ColorDescription { color_primaries, transfer_characteristics, matrix_coefficients }
}

/// Encodes a picture on the calling thread, at the fastest speed that rav1e has.
///
/// # Errors
/// In rav1e's words.
pub fn encode(still: &Still<'_>, settings: Settings) -> Result<Coded, String> {
    if settings.depth == 8 { encode_as::<u8>(still, settings) } else { encode_as::<u16>(still, settings) }
}

fn encode_as<P: Pixel>(still: &Still<'_>, settings: Settings) -> Result<Coded, String> {
    const SPEED: u8 = 10;
    let (smallest, largest) = match settings.smallest_block {
        4 => (BlockSize::BLOCK_4X4, BlockSize::BLOCK_4X4),
        8 => (BlockSize::BLOCK_8X8, BlockSize::BLOCK_16X16),
        _ => (BlockSize::BLOCK_16X16, BlockSize::BLOCK_16X16),
    };
    let mut speed = SpeedSettings::from_preset(SPEED);
    speed.partition.partition_range = PartitionRange::new(smallest, largest);
    // There is nothing before or after a still picture to look at.
    speed.rdo_lookahead_frames = 1;
    speed.scene_detection_mode = SceneDetectionSpeed::None;
    speed.multiref = false;
    let (chroma_sampling, planes) = match &still.planes {
        Planes::Gray(gray) => (ChromaSampling::Cs400, vec![*gray]),
        Planes::Subsampled(planes) => (ChromaSampling::Cs420, planes.to_vec()),
        // The identity matrix means green, blue, red (H.273, 8.3).
        Planes::Rgb([red, green, blue]) => (ChromaSampling::Cs444, vec![*green, *blue, *red]),
    };
    let config = EncoderConfig {
        width: still.width,
        height: still.height,
        time_base: Rational::new(1, 1),
        bit_depth: settings.depth.into(),
        chroma_sampling,
        pixel_range: PixelRange::Full,
        color_description: Some(description(still)),
        still_picture: true,
        min_key_frame_interval: 0,
        max_key_frame_interval: 0,
        quantizer: settings.quantizer.into(),
        min_quantizer: settings.quantizer,
        tune: if settings.psychovisual { Tune::Psychovisual } else { Tune::Psnr },
        speed_settings: speed,
        ..EncoderConfig::with_speed_preset(SPEED)
    };
    let mut context: Context<P> =
        Config::new().with_encoder_config(config).new_context().map_err(|error| error.to_string())?;
    let mut frame = context.new_frame();
    for ((index, plane), samples) in frame.planes.iter_mut().enumerate().zip(planes) {
        let halved = index > 0 && chroma_sampling == ChromaSampling::Cs420;
        let width = if halved { still.width.div_ceil(2) } else { still.width };
        let mut plane = plane.mut_slice(Default::default());
        for (row, samples) in plane.rows_iter_mut().zip(samples.chunks_exact(width.max(1))) {
            for (to, sample) in row.iter_mut().zip(samples) {
                // 255 is all ones at any depth.
                let most = (1_u32 << settings.depth) - 1;
                *to = P::cast_from((u32::from(*sample) * most + 127) / 255);
            }
        }
    }
    let configuration = context.container_sequence_header();
    context.send_frame(frame).map_err(|status| status.to_string())?;
    context.flush();
    loop {
        match context.receive_packet() {
            Ok(packet) => return Ok(Coded { configuration, data: packet.data }),
            Err(EncoderStatus::Encoded) => {}
            Err(status) => return Err(status.to_string()),
        }
    }
}
