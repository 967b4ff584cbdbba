//! What a JPEG's segments say of the scans that follow them, as far as our own decoders go: three components, eight bits, Huffman
//! codes. Whatever is beyond that, or odd, is `None`, and libjpeg's to judge.
//!
//! Numbers of clauses are those of ITU-T T.81.

use super::{
    header::segment,
    huffman::{Bits, COEFFICIENTS, Codes, DcTable},
};
use crate::model::Size;

/// All that segments have said so far.
#[derive(Default)]
pub struct Tables<'a> {
    frame: Option<Frame>,
    quanta: [Option<Quanta>; 4],
    dc: [Option<Codes<'a>>; 4],
    ac: [Option<Codes<'a>>; 4],
    restart_interval: u32,
}

/// What coefficients are multiples of, in their order of transmission. libjpeg takes 16 bits for signed ones.
pub type Quanta = [i16; COEFFICIENTS];

/// The frame header (B.2.2).
#[derive(Clone, Copy)]
pub struct Frame {
    /// Several scans make one picture.
    pub progressive: bool,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// In their order.
    pub components: [FrameComponent; 3],
}

/// One of them.
#[derive(Clone, Copy)]
pub struct FrameComponent {
    id: u8,
    /// Blocks in a unit, across and down.
    pub sampling: (u32, u32),
    quanta: u8,
}

/// A scan header (B.2.3).
pub struct ScanHeader {
    /// The components' places in the frame, and the numbers of their tables.
    pub components: Vec<Selected>,
    /// First and last coefficient.
    pub spectrum: (u8, u8),
    /// Bits that earlier scans left out, and that this one does.
    pub approximation: (u8, u8),
}

/// A component in a scan.
#[derive(Clone, Copy)]
pub struct Selected {
    /// Its place in the frame.
    pub place: usize,
    dc: u8,
    ac: u8,
}

/// What stands between scans.
pub enum Next<'a> {
    /// A scan, and its data up to the end of the file.
    Scan(ScanHeader, &'a [u8]),
    /// The end of the image.
    End,
}

/// A file with all coefficients of three components in its one scan. `T` is what a decoder makes of the codes of all coefficients but
/// the first.
pub struct Sequential<'a, T> {
    pub units: Size,
    pub components: [Component; 3],
    /// As many as are used, each once.
    ac: [Option<T>; 4],
    pub restarts: Restarts,
    /// What follows the scan's header, up to the end of the file.
    pub data: &'a [u8],
}

/// A component of such a file.
pub struct Component {
    /// Blocks in a unit, across and down.
    pub sampling: (u32, u32),
    pub quanta: Quanta,
    pub dc: DcTable,
    /// Number of the table of all other coefficients.
    ac: usize,
}

impl<'a, T> Sequential<'a, T> {
    /// `sampling`: blocks of brightness, across and down, for one of each colour difference.
    pub fn read(source: &'a [u8], sampling: (u32, u32), make: impl Fn(Codes<'a>) -> Option<T>) -> Option<Self> {
        let mut tables = Tables::default();
        let Next::Scan(header, data) = tables.until_scan(source.strip_prefix(b"\xFF\xD8")?)? else { return None };
        let frame = tables.frame()?;
        let is_whole = header.spectrum == (0, 63) && header.approximation == (0, 0);
        if frame.progressive || !is_whole || !frame.is_sampled(sampling) {
            return None;
        }
        let selected: [_; 3] = header.components.try_into().ok()?;
        let mut ac = [const { None }; 4];
        let mut components = frame.components.iter().zip(selected).map(|(described, selected)| {
            let (codes, number) = tables.ac(selected)?;
            if ac[number].is_none() {
                ac[number] = Some(make(codes)?);
            }
            let (quanta, dc) = (*tables.quanta(described)?, DcTable::new(tables.dc(selected)?)?);
            Some(Component { sampling: described.sampling, quanta, dc, ac: number })
        });
        let components = [components.next()??, components.next()??, components.next()??];
        let restarts = Restarts::every(tables.restart_interval());
        Some(Self { units: frame.units(), components, ac, restarts, data })
    }

    /// A component's codes of all coefficients but the first.
    #[inline(always)]
    pub fn ac(&self, component: &Component) -> Option<&T> {
        self.ac[component.ac].as_ref()
    }
}

/// Where restart markers stand among a scan's units (B.2.1).
#[derive(Clone, Copy)]
pub struct Restarts {
    interval: u32,
    /// Units until the next.
    left: u32,
    number: u8,
}

impl Restarts {
    /// At a scan's beginning; an interval of 0: there are none.
    pub fn every(interval: u32) -> Self {
        Self { interval, left: interval, number: 0 }
    }

    /// Before each unit: goes past the marker, if one stands there. Whether one did, and predictions begin anew.
    #[inline(always)]
    pub fn pass(&mut self, bits: &mut Bits<'_>) -> Option<bool> {
        if self.interval == 0 {
            return Some(false);
        }
        let is_due = self.left == 0;
        if is_due {
            bits.restart(self.number)?;
            (self.left, self.number) = (self.interval, (self.number + 1) % 8);
        }
        self.left -= 1;
        Some(is_due)
    }
}

impl<'a> Tables<'a> {
    /// Takes in all segments up to a scan's data, or the image's end.
    pub fn until_scan(&mut self, source: &'a [u8]) -> Option<Next<'a>> {
        let mut rest = source;
        loop {
            let (marker, body, after) = segment(rest)?;
            rest = after;
            match marker {
                0xC0..=0xC2 => {
                    if self.frame.replace(Frame::read(marker == 0xC2, body)?).is_some() {
                        return None;
                    }
                }
                0xC4 => self.take_codes(body)?,
                0xDB => self.take_quanta(body)?,
                0xDD => self.restart_interval = u16::from_be_bytes(body.try_into().ok()?).into(),
                0xDA => return Some(Next::Scan(ScanHeader::read(self.frame.as_ref()?, body)?, rest)),
                0xD9 => return Some(Next::End),
                // Application data and comments.
                0xE0..=0xEF | 0xFE => {}
                _ => return None,
            }
        }
    }

    pub fn frame(&self) -> Option<&Frame> {
        self.frame.as_ref()
    }

    /// Units between restarts; 0: none.
    pub fn restart_interval(&self) -> u32 {
        self.restart_interval
    }

    pub fn quanta(&self, component: &FrameComponent) -> Option<&Quanta> {
        self.quanta.get(usize::from(component.quanta))?.as_ref()
    }

    /// Codes of the differences between DC coefficients.
    pub fn dc(&self, component: Selected) -> Option<Codes<'a>> {
        *self.dc.get(usize::from(component.dc))?
    }

    /// Codes of all other coefficients, and their number.
    pub fn ac(&self, component: Selected) -> Option<(Codes<'a>, usize)> {
        let number = usize::from(component.ac);
        Some(((*self.ac.get(number)?)?, number))
    }

    fn take_codes(&mut self, mut body: &'a [u8]) -> Option<()> {
        while let [class_and_number, after @ ..] = body {
            let counts = after.first_chunk::<16>()?;
            let total = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            let codes = Codes { counts, symbols: after.get(16..16 + total)? };
            let tables = match class_and_number >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return None,
            };
            *tables.get_mut(usize::from(class_and_number & 15))? = Some(codes);
            body = &after[16 + total..];
        }
        Some(())
    }

    fn take_quanta(&mut self, mut body: &[u8]) -> Option<()> {
        while let [precision_and_number, after @ ..] = body {
            let bytes = 1 + usize::from(precision_and_number >> 4);
            (bytes <= 2).then_some(())?;
            let (written, after) = after.split_at_checked(bytes * COEFFICIENTS)?;
            let mut quanta = [0; COEFFICIENTS];
            for (quantum, value) in quanta.iter_mut().zip(written.chunks_exact(bytes)) {
                let value = value.iter().fold(0_u16, |high, &low| high << 8 | u16::from(low));
                *quantum = i16::try_from(value).ok()?;
            }
            *self.quanta.get_mut(usize::from(precision_and_number & 15))? = Some(quanta);
            body = after;
        }
        Some(())
    }
}

impl Frame {
    /// Whether a unit has so many blocks of brightness, across and down, and one of each colour difference.
    pub fn is_sampled(&self, sampling: (u32, u32)) -> bool {
        self.components.map(|component| component.sampling) == [sampling, (1, 1), (1, 1)]
    }

    /// Units across and down.
    pub fn units(&self) -> Size {
        let (across, down) = self.components[0].sampling;
        Size::new(self.size.0.div_ceil(8 * across), self.size.1.div_ceil(8 * down))
    }

    fn read(progressive: bool, body: &[u8]) -> Option<Self> {
        let &[8, h1, h0, w1, w0, 3, ref described @ ..] = body else { return None };
        let described: &[u8; 9] = described.try_into().ok()?;
        let component = |at: usize| {
            let (id, sampling, quanta) = (described[at], described[at + 1], described[at + 2]);
            FrameComponent { id, sampling: (u32::from(sampling >> 4), u32::from(sampling & 15)), quanta }
        };
        let side = |high, low| u32::from(u16::from_be_bytes([high, low]));
        Some(Self {
            progressive,
            size: (side(w1, w0), side(h1, h0)),
            components: [component(0), component(3), component(6)],
        })
    }
}

impl ScanHeader {
    /// Components in the frame's order, each once.
    fn read(frame: &Frame, body: &[u8]) -> Option<Self> {
        let (&count, body) = body.split_first()?;
        let (selected, &[from, to, approximation]) = body.split_at_checked(2 * usize::from(count))? else {
            return None;
        };
        let mut from_place = 0;
        let mut components = Vec::with_capacity(frame.components.len());
        for pair in selected.chunks_exact(2) {
            let rest = frame.components.get(from_place..)?;
            let place = from_place + rest.iter().position(|component| component.id == pair[0])?;
            components.push(Selected { place, dc: pair[1] >> 4, ac: pair[1] & 15 });
            from_place = place + 1;
        }
        Some(Self { components, spectrum: (from, to), approximation: (approximation >> 4, approximation & 15) })
    }
}
