//! Numbers as Python's `int()` and `float()` read them: white space around them, a plus sign, single underscores between
//! digits, and the decimal digits of any script are all fine (Python Language Reference, 2.4.5 and `int`, `float`).

/// The zero of each run of ten decimal digits in Unicode 14 (general category Nd), ascending.
const DECIMAL_ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0,
    0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620,
    0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0,
    0x112F0, 0x11450, 0x114D0, 0x11650, 0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60,
    0x16AC0, 0x16B50, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E950, 0x1FBF0,
];

/// The largest whole number that doubles hold exactly together with all smaller ones; larger input is clamped to it.
const LARGEST: u64 = (1 << 53) - 1;

/// A non-negative whole number, or `None` where Python raises `ValueError`.
pub(super) fn whole(text: &str) -> Option<u64> {
    let digits = plain_ascii(text)?;
    let digits = digits.strip_prefix('+').unwrap_or(&digits);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.bytes().fold(0u64, |value, b| (value * 10 + u64::from(b - b'0')).min(LARGEST)))
}

/// A number, possibly infinite or not a number, or `None` where Python raises `ValueError`.
pub(super) fn float(text: &str) -> Option<f64> {
    plain_ascii(text)?.parse().ok()
}

/// Two hexadecimal digits or one, as `int(text, 16)` reads so short a text.
pub(super) fn hex(text: &str) -> Option<u8> {
    let digits = plain_ascii(text)?;
    let digits = digits.strip_prefix('+').unwrap_or(&digits);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// The text without surrounding white space, its digits in ASCII and its underscores, which must stand between two
/// digits, gone.
fn plain_ascii(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut after_digit = false;
    let mut pending_underscore = false;
    for c in text.trim().chars() {
        let c = ascii_digit(c);
        let is_digit = c.is_ascii_hexdigit();
        if c == '_' {
            if !after_digit {
                return None;
            }
            pending_underscore = true;
        } else {
            if !c.is_ascii() || (pending_underscore && !is_digit) {
                return None;
            }
            pending_underscore = false;
            plain.push(c);
        }
        after_digit = is_digit;
    }
    (!pending_underscore).then_some(plain)
}

fn ascii_digit(c: char) -> char {
    let index = DECIMAL_ZEROS.partition_point(|&zero| zero <= c as u32);
    match index.checked_sub(1).map(|i| c as u32 - DECIMAL_ZEROS[i]) {
        Some(value @ 0..=9) => char::from(b'0' + value as u8),
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_as_python_reads_them() {
        for (text, value) in [
            ("40", Some(40)),
            (" 40 ", Some(40)),
            ("+40", Some(40)),
            ("040", Some(40)),
            ("1_0", Some(10)),
            ("٣٠", Some(30)),
            ("99999999999999999999", Some(LARGEST)),
            ("", None),
            ("+", None),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("1 0", None),
            ("10.5", None),
            ("1e2", None),
            ("x", None),
            ("²", None),
        ] {
            assert_eq!(whole(text), value, "{text:?}");
        }
    }

    #[test]
    fn floats_as_python_reads_them() {
        for (text, value) in [
            ("33.3", Some(33.3)),
            (".5e2", Some(50.0)),
            ("5_0", Some(50.0)),
            ("5.", Some(5.0)),
            ("٣.٥", Some(3.5)),
            ("", None),
            (".", None),
            ("0x10", None),
            ("1_.5", None),
            ("5e", None),
        ] {
            assert_eq!(float(text), value, "{text:?}");
        }
        assert_eq!(float("inf"), Some(f64::INFINITY));
        assert!(float("nan").is_some_and(f64::is_nan));
    }

    #[test]
    fn hex_pairs() {
        for (text, value) in
            [("f", Some(15)), ("Ff", Some(255)), (" f", Some(15)), ("+f", Some(15)), ("g", None), (" ", None)]
        {
            assert_eq!(hex(text), value, "{text:?}");
        }
    }
}
