//! What `format-auto` learns from the `Accept` header (RFC 9110, 12.5.1).

use hyper::{HeaderMap, header::ACCEPT};

use crate::spec::Accepted;

/// Elements looked at; a browser sends about eight.
const MAX_ELEMENTS: usize = 64;

/// Which of the newer formats the client names. Wildcards do not count: what sends `*/*` alone, from `curl` to old
/// browsers, may show neither. Of two with different q-values the better one stands.
pub fn accepted(headers: &HeaderMap) -> Accepted {
    let elements = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let (mut avif, mut webp) = (0, 0);
    for element in elements.flat_map(|value| value.split(',')).take(MAX_ELEMENTS) {
        let mut parts = element.split(';').map(str::trim);
        let Some(kind) = parts.next() else { continue };
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1000, |text| thousandths(text).unwrap_or(0));
        if kind.eq_ignore_ascii_case("image/avif") {
            avif = weight;
        } else if kind.eq_ignore_ascii_case("image/webp") {
            webp = weight;
        }
    }
    Accepted { avif: avif > 0 && avif >= webp, webp: webp > 0 }
}

/// A q-value: 0 to 1 with at most three decimals.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part: u32 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[&str]) -> (bool, bool) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        let Accepted { avif, webp } = accepted(&headers);
        (avif, webp)
    }

    #[test]
    fn browsers_and_others() {
        let chrome = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";
        assert_eq!(of(&[chrome]), (true, true));
        assert_eq!(of(&["image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"]), (false, true));
        assert_eq!(of(&["*/*"]), (false, false));
        assert_eq!(of(&["image/*"]), (false, false));
        assert_eq!(of(&[]), (false, false));
        assert_eq!(of(&["IMAGE/AVIF ; Q=0.5", "image/webp;q=0.5"]), (true, true));
    }

    #[test]
    fn weights_decide() {
        assert_eq!(of(&["image/avif;q=0"]), (false, false));
        assert_eq!(of(&["image/avif;q=0.000, image/webp;q=0.001"]), (false, true));
        assert_eq!(of(&["image/avif;q=0.5, image/webp;q=0.9"]), (false, true));
        assert_eq!(of(&["image/avif;q=1.000, image/webp"]), (true, true));
        assert_eq!(of(&["image/avif;q=2, image/webp;q=nonsense"]), (false, false));
        assert_eq!(of(&["image/webp;level=1;q=0.3"]), (false, true));
    }

    proptest! {
        #[test]
        fn anything_is_survived(value in "[ -~]{0,200}") {
            of(&[&value]);
        }
    }
}
