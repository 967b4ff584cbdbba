//! Small files that ask for much, made byte by byte.

/// A PNG's chunk, with its checksum (PNG, third edition, annex D).
pub fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let covered = [kind.as_slice(), body].concat();
    let crc = !covered.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    });
    [&(body.len() as u32).to_be_bytes(), covered.as_slice(), &crc.to_be_bytes()].concat()
}

/// A black-and-white PNG of this size by its header; the data of one row.
pub fn png_header(width: u32, height: u32) -> Vec<u8> {
    let header = [&width.to_be_bytes(), &height.to_be_bytes(), [1, 0, 0, 0, 0].as_slice()].concat();
    let data = b"\x78\x9C\x03\x00\x00\x00\x00\x01";
    [b"\x89PNG\r\n\x1A\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", data), chunk(b"IEND", b"")].concat()
}

/// A whole black-and-white PNG, a thousandth of its pixels long.
pub fn white_png(side: u32, profile: Option<Vec<u8>>) -> Vec<u8> {
    let mut info = png::Info::with_size(side, side);
    (info.color_type, info.bit_depth) = (png::ColorType::Grayscale, png::BitDepth::One);
    info.icc_profile = profile.map(Into::into);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::with_info(&mut bytes, info).unwrap();
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![255; (side.div_ceil(8) * side) as usize]).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Chunks put in before the data.
pub fn with_chunks(png: &[u8], chunk: &[u8], count: usize) -> Vec<u8> {
    let at = png.windows(4).position(|window| window == b"IDAT").unwrap() - 4;
    [&png[..at], &chunk.repeat(count), &png[at..]].concat()
}

/// So many zeros in zlib's format, by a PNG encoder's profile chunk.
pub fn deflated(length: usize) -> Vec<u8> {
    let png = white_png(16, Some(vec![0; length]));
    let at = png.windows(4).position(|window| window == b"iCCP").unwrap();
    let size = u32::from_be_bytes(png[at - 4..at].try_into().unwrap()) as usize;
    let body = &png[at + 4..at + 4 + size];
    let name = body.iter().position(|byte| *byte == 0).unwrap();
    body[name + 2..].to_vec()
}

/// An animated PNG of many frames of one pixel.
pub fn moving_png(frames: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
    encoder.set_animated(frames, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    for _ in 0..frames {
        writer.write_image_data(&[0]).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

pub fn gif_header(side: u16) -> Vec<u8> {
    let [low, high] = side.to_le_bytes();
    let size = [low, high, low, high];
    [b"GIF89a".as_slice(), &size, b"\0\0\0\x2C\0\0\0\0", &size, b"\0\x02\x02\x44\x01\0\x3B"].concat()
}

/// Empty comments before the first frame.
pub fn with_comments(gif: &[u8], count: usize) -> Vec<u8> {
    let colors = if gif[10] & 0x80 == 0 { 0 } else { 3 << ((gif[10] & 7) + 1) };
    let (head, rest) = gif.split_at(13 + colors);
    [head, &b"\x21\xFE\0".repeat(count), rest].concat()
}

pub fn vp8l_header(side: u32) -> Vec<u8> {
    let size = (side - 1) | (side - 1) << 14;
    let body = [[0x2F].as_slice(), &size.to_le_bytes(), &[0; 27]].concat();
    let chunk = [b"WEBPVP8L".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat();
    [b"RIFF".as_slice(), &(chunk.len() as u32).to_le_bytes(), &chunk].concat()
}

pub fn jpeg_header(side: u16) -> Vec<u8> {
    let [high, low] = side.to_be_bytes();
    let frame = [0xFF, 0xC0, 0, 11, 8, high, low, high, low, 1, 1, 0x11, 0];
    [b"\xFF\xD8".as_slice(), &frame, b"\xFF\xDA\0\x08\x01\x01\0\0\x3F\0", b"\xFF\xD9"].concat()
}

/// A progressive JPEG whose last scan comes again and again.
pub fn scans(count: usize) -> Vec<u8> {
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_progressive(true).unwrap();
    let (width, height) = (2_000, 2_000);
    let pixels = vec![90; width * height];
    let format = turbojpeg::PixelFormat::GRAY;
    compressor.set_subsamp(turbojpeg::Subsamp::Gray).unwrap();
    let image = turbojpeg::Image { pixels: &pixels[..], width, pitch: width, height, format };
    let jpeg = compressor.compress_to_vec(image).unwrap();
    let last = jpeg.windows(2).rposition(|window| window == [0xFF, 0xDA]).unwrap();
    let end = jpeg.len() - 2;
    [&jpeg[..last], &jpeg[last..end].repeat(count), &jpeg[end..]].concat()
}

/// Segments put in behind the JPEG's first two bytes.
pub fn with_segments(jpeg: &[u8], segment: &[u8], count: usize) -> Vec<u8> {
    [&jpeg[..2], &segment.repeat(count), &jpeg[2..]].concat()
}

/// An EXIF block whose only directory is its own sub-directory and its own successor.
pub fn looping_exif() -> Vec<u8> {
    let tiff = b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08";
    let body = [b"Exif\0\0".as_slice(), tiff].concat();
    [b"\xFF\xE1".as_slice(), &(body.len() as u16 + 2).to_be_bytes(), &body].concat()
}

/// A JPEG that restarts after every block, as often as bytes last.
pub fn with_restarts(jpeg: &[u8], count: usize) -> Vec<u8> {
    let scan = jpeg.windows(2).position(|window| window == [0xFF, 0xDA]).unwrap();
    let length = usize::from(u16::from_be_bytes([jpeg[scan + 2], jpeg[scan + 3]]));
    let interval = [0xFF, 0xDD, 0, 4, 0, 1];
    let marks: Vec<u8> = (0..count).flat_map(|number| [0xFF, 0xD0 | (number % 8) as u8]).collect();
    [&jpeg[..scan], &interval, &jpeg[scan..scan + 2 + length], &marks, &jpeg[scan + 2 + length..]].concat()
}

/// A bitmap of this size by its header.
pub fn bmp(width: i32, height: i32, bits: u16, compression: u32, data: &[u8]) -> Vec<u8> {
    let palette = if bits <= 8 { vec![0; 4 << bits] } else { Vec::new() };
    let start = 54 + palette.len() as u32;
    let mut file = b"BM".to_vec();
    file.extend((start + data.len() as u32).to_le_bytes());
    file.extend([0; 4]);
    file.extend(start.to_le_bytes());
    file.extend(40_u32.to_le_bytes());
    file.extend(width.to_le_bytes());
    file.extend(height.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(bits.to_le_bytes());
    file.extend(compression.to_le_bytes());
    file.extend([0; 20]);
    [file, palette, data.to_vec(), vec![0, 1]].concat()
}

/// An AVIF that says everywhere that its picture has this side.
pub fn avif_of(avif: &[u8], side: u32) -> Vec<u8> {
    let mut bytes = avif.to_vec();
    let places: Vec<usize> = (0..bytes.len() - 16).filter(|&at| &bytes[at..at + 4] == b"ispe").collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 8..at + 12].copy_from_slice(&side.to_be_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&side.to_be_bytes());
    }
    bytes
}

/// An icon with one entry: this file.
pub fn nested_icon(inside: &[u8]) -> Vec<u8> {
    let entry =
        [&[0, 0, 0, 0, 1, 0, 32, 0], (inside.len() as u32).to_le_bytes().as_slice(), &22_u32.to_le_bytes()].concat();
    [&[0, 0, 1, 0, 1, 0], entry.as_slice(), inside].concat()
}

/// An icon whose every entry is the first one's picture.
pub fn icon_of_entries(icon: &[u8], count: u16) -> Vec<u8> {
    let old = usize::from(u16::from_le_bytes([icon[4], icon[5]]));
    let mut entry = icon[6..22].to_vec();
    let offset = u32::from_le_bytes(entry[12..16].try_into().unwrap()) as usize;
    let moved = (6 + 16 * usize::from(count) + offset - 6 - 16 * old) as u32;
    entry[12..16].copy_from_slice(&moved.to_le_bytes());
    [&icon[..4], &count.to_le_bytes(), &entry.repeat(count.into()), &icon[6 + 16 * old..]].concat()
}

/// A GIF of so many equal frames.
pub fn gif_of(width: u16, height: u16, frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, width, height, &[240, 230, 200, 20, 60, 160]).unwrap();
    let buffer: Vec<u8> = (0..usize::from(width) * usize::from(height)).map(|at| u8::from(at % 7 == 0)).collect();
    encoder
        .write_frame(&gif::Frame { width, height, delay: 1, buffer: buffer.into(), ..gif::Frame::default() })
        .unwrap();
    drop(encoder);
    // Everything behind the palette but the end is the frame.
    let (head, frame) = (13 + 6, bytes.len() - 1);
    [&bytes[..head], &bytes[head..frame].repeat(frames), &[0x3B]].concat()
}

/// A TIFF whose only directory is its own successor.
pub fn looping_tiff() -> Vec<u8> {
    b"MM\0*\0\0\0\x08\0\x01\x01\0\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08".to_vec()
}

/// A TIFF whose every field of more than one value has 2^32-1 of them.
pub fn tiff_with_counts(tiff: &[u8]) -> Vec<u8> {
    let mut bytes = tiff.to_vec();
    let little = bytes.starts_with(b"II");
    let short = |at: usize| {
        if little { u16::from_le_bytes([tiff[at], tiff[at + 1]]) } else { u16::from_be_bytes([tiff[at], tiff[at + 1]]) }
    };
    let four: [u8; 4] = tiff[4..8].try_into().unwrap();
    let directory = (if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) }) as usize;
    for entry in 0..usize::from(short(directory)) {
        let at = directory + 2 + 12 * entry;
        if bytes[at + 4..at + 8].iter().map(|byte| u32::from(*byte)).sum::<u32>() > 1 {
            bytes[at + 4..at + 8].fill(0xFF);
        }
    }
    bytes
}

/// A TIFF of this size in strips of one row, all of them the same byte.
pub fn bomb_tiff(width: u32, height: u32, bits: u32) -> Vec<u8> {
    let mut fields: Vec<(u16, u16, u32, u32)> = vec![
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        // PackBits: one byte says 128 pixels more.
        (259, 3, 1, 32_773),
        (262, 3, 1, 1),
        (273, 4, height, 0),
        (277, 3, 1, 1),
        (278, 4, 1, 1),
        (279, 4, height, 0),
    ];
    let directory = 8 + 2 + 12 * fields.len() as u32 + 4;
    let (offsets, counts) = (directory, directory + 4 * height);
    let data = counts + 4 * height;
    fields[5].3 = offsets;
    fields[8].3 = counts;
    let mut file = b"II*\0\x08\0\0\0".to_vec();
    file.extend((fields.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in fields {
        file.extend(tag.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend([0; 4]);
    let row: Vec<u8> = [0x81, 0].repeat((width * bits).div_ceil(8).div_ceil(128) as usize);
    file.extend(data.to_le_bytes().repeat(height as usize));
    file.extend((row.len() as u32).to_le_bytes().repeat(height as usize));
    [file, row].concat()
}

pub fn svg(body: &str) -> Vec<u8> {
    format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"90\" height=\"60\">{body}</svg>").into_bytes()
}

pub fn nested_svg(name: &str, depth: usize) -> Vec<u8> {
    svg(&(format!("<{name}>").repeat(depth) + &format!("</{name}>").repeat(depth)))
}

/// Many elements side by side.
pub fn wide_svg(count: usize) -> Vec<u8> {
    svg(&"<path d=\"M0 0h9v9z\"/>".repeat(count))
}

/// Each entity is ten of the one before it.
pub fn entities_svg() -> Vec<u8> {
    let entity = |number: usize| format!("<!ENTITY e{number} \"{}\">", format!("&e{};", number - 1).repeat(10));
    let entities: String = (1..12).map(entity).collect();
    let body = String::from_utf8(svg("<text>&e11;</text>")).unwrap();
    format!("<!DOCTYPE svg [<!ENTITY e0 \"ha\">{entities}]>{body}").into_bytes()
}

/// An entity that is a file of the machine's.
pub fn file_entity_svg() -> Vec<u8> {
    let body = String::from_utf8(svg("<text>&x;</text>")).unwrap();
    format!("<!DOCTYPE svg [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>{body}").into_bytes()
}

/// Each group uses the one before it ten times.
pub fn uses_svg() -> Vec<u8> {
    let group =
        |number: usize| format!("<g id=\"g{number}\">{}</g>", format!("<use href=\"#g{}\"/>", number - 1).repeat(10));
    let groups: String = (1..12).map(group).collect();
    svg(&format!("<defs><g id=\"g0\"><rect width=\"9\" height=\"9\"/></g>{groups}</defs><use href=\"#g11\"/>"))
}
