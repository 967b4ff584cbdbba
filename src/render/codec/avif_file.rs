//! The container of a still AVIF: boxes around one AV1 frame, or two with alpha.
//!
//! What is written is the least that readers want (AVIF 1.1, MIAF, HEIF ISO/IEC 23008-12): a picture item with its
//! properties, the same for alpha, and the data behind. The profile is one of the properties, which crates that write this
//! container leave out.

use crate::model::Size;

/// One AV1 frame, as an encoder gives it.
pub struct Item {
    /// AV1CodecConfigurationRecord, which readers compare with the sequence header in `data`.
    pub configuration: Vec<u8>,
    /// The coded frame.
    pub data: Vec<u8>,
    /// Channels in it.
    pub channels: u8,
    /// Bits of a sample.
    pub depth: u8,
}

const PICTURE: u16 = 1;
const ALPHA: u16 = 2;
/// A property that a reader must understand to show the item (HEIF, 9.3.3).
const ESSENTIAL: u8 = 0x80;
const ALPHA_URN: &[u8] = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0";

/// Bits of a sample, by the first AV1CodecConfigurationRecord (AV1 in ISO-BMFF, 2.3.3: `high_bitdepth`, `twelve_bit`).
pub fn depth(file: &[u8]) -> Option<u8> {
    let at = file.windows(4).position(|name| name == b"av1C")?;
    Some(match file.get(at + 6)? & 0x60 {
        0x60 => 12,
        0x40 => 10,
        _ => 8,
    })
}

/// Writes the file. `cicp` is what ITU-T H.273 numbers: primaries, transfer and matrix, in full range.
pub fn write(size: Size, picture: &Item, alpha: Option<&Item>, cicp: [u16; 3], profile: Option<&[u8]>) -> Vec<u8> {
    let mut file = Vec::with_capacity(
        picture.data.len() + alpha.map_or(0, |a| a.data.len()) + profile.map_or(0, <[u8]>::len) + 512,
    );
    boxed(&mut file, b"ftyp", |out| out.extend_from_slice(b"avif\0\0\0\0avifmif1miaf"));
    // Where the data begins is known once the boxes before it are written; until then the places hold zeros.
    let mut offsets = Vec::new();
    full_box(&mut file, b"meta", 0, 0, |out| {
        full_box(out, b"hdlr", 0, 0, |out| out.extend_from_slice(b"\0\0\0\0pict\0\0\0\0\0\0\0\0\0\0\0\0\0"));
        full_box(out, b"pitm", 0, 0, |out| put16(out, PICTURE));
        let items: Vec<(u16, &Item)> =
            [(PICTURE, picture)].into_iter().chain(alpha.map(|alpha| (ALPHA, alpha))).collect();
        full_box(out, b"iloc", 0, 0, |out| {
            out.extend_from_slice(&[0x44, 0]); // offsets and lengths of 4 bytes, no base offset
            put16(out, items.len() as u16);
            for (id, item) in &items {
                put16(out, *id);
                put16(out, 0); // this file
                put16(out, 1); // in one piece
                offsets.push(out.len());
                put32(out, 0);
                put32(out, item.data.len() as u32);
            }
        });
        full_box(out, b"iinf", 0, 0, |out| {
            put16(out, items.len() as u16);
            for (id, _) in &items {
                full_box(out, b"infe", 2, 0, |out| {
                    put16(out, *id);
                    out.extend_from_slice(b"\0\0av01\0");
                });
            }
        });
        if alpha.is_some() {
            full_box(out, b"iref", 0, 0, |out| {
                boxed(out, b"auxl", |out| [ALPHA, 1, PICTURE].into_iter().for_each(|number| put16(out, number)));
            });
        }
        boxed(out, b"iprp", |out| properties(out, size, picture, alpha, cicp, profile));
    });
    boxed(&mut file, b"mdat", |out| {
        for (place, item) in offsets.iter().zip([Some(picture), alpha].into_iter().flatten()) {
            let at = out.len() as u32;
            out[*place..place + 4].copy_from_slice(&at.to_be_bytes());
            out.extend_from_slice(&item.data);
        }
    });
    file
}

/// The properties, and which item has which. Their numbers count from 1 in the order written.
fn properties(
    out: &mut Vec<u8>,
    size: Size,
    picture: &Item,
    alpha: Option<&Item>,
    cicp: [u16; 3],
    profile: Option<&[u8]>,
) {
    let (mut of_picture, mut of_alpha) = (Vec::new(), Vec::new());
    boxed(out, b"ipco", |out| {
        let mut number = 0;
        let mut next = || {
            number += 1;
            number
        };
        full_box(out, b"ispe", 0, 0, |out| {
            put32(out, size.width);
            put32(out, size.height);
        });
        let both = next();
        let mut item = |out: &mut Vec<u8>, item: &Item| {
            boxed(out, b"av1C", |out| out.extend_from_slice(&item.configuration));
            full_box(out, b"pixi", 0, 0, |out| {
                out.push(item.channels);
                out.resize(out.len() + usize::from(item.channels), item.depth);
            });
            vec![both, ESSENTIAL | next(), next()]
        };
        of_picture = item(out, picture);
        if let Some(alpha) = alpha {
            of_alpha = item(out, alpha);
        }
        boxed(out, b"colr", |out| {
            out.extend_from_slice(b"nclx");
            cicp.into_iter().for_each(|number| put16(out, number));
            out.push(0x80); // full range
        });
        of_picture.push(next());
        if let Some(profile) = profile {
            boxed(out, b"colr", |out| {
                out.extend_from_slice(b"prof");
                out.extend_from_slice(profile);
            });
            of_picture.push(next());
        }
        if alpha.is_some() {
            full_box(out, b"auxC", 0, 0, |out| out.extend_from_slice(ALPHA_URN));
            of_alpha.push(next());
        }
    });
    full_box(out, b"ipma", 0, 0, |out| {
        let entries: Vec<(u16, &[u8])> =
            [(PICTURE, &of_picture[..]), (ALPHA, &of_alpha[..])].into_iter().filter(|(_, of)| !of.is_empty()).collect();
        put32(out, entries.len() as u32);
        for (id, of) in entries {
            put16(out, id);
            out.push(of.len() as u8);
            out.extend_from_slice(of);
        }
    });
}

/// A box: its length, its name, what `body` writes.
fn boxed(out: &mut Vec<u8>, name: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put32(out, 0);
    out.extend_from_slice(name);
    body(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A box with a version and flags.
fn full_box(out: &mut Vec<u8>, name: &[u8; 4], version: u8, flags: u32, body: impl FnOnce(&mut Vec<u8>)) {
    boxed(out, name, |out| {
        put32(out, u32::from(version) << 24 | flags);
        body(out);
    });
}

fn put16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn put32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}
