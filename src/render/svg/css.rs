//! Style sheets and style attributes, with nothing left that could fetch or run anything.
//!
//! No attempt is made to understand what is unusual: escapes, unbalanced brackets and unknown functions cost their
//! declaration, rule or sheet. What is written is built from the parts that were checked, not cut out of what was there.

use super::allowed::{self, FUNCTIONS};

/// At-rules whose blocks hold rules.
const CONDITIONS: &[&str] = &["keyframes", "media", "supports"];
const MAX_NESTING: u32 = 4;

/// A style sheet with its harmless rules; `None` when it cannot be taken apart.
pub fn sheet(text: &str) -> Option<String> {
    let text = plain(text)?;
    let mut kept = String::new();
    rules(&text, 0, &mut kept)?;
    Some(kept)
}

/// A `style` attribute with its harmless declarations; `None` when it cannot be taken apart.
pub fn declarations(text: &str) -> Option<String> {
    let text = plain(text)?;
    let mut kept = Vec::new();
    for part in split(&text, ';')? {
        kept.extend(declaration(part));
    }
    Some(kept.join(";"))
}

/// Whether a value holds nothing but harmless functions and references into the document.
pub fn is_harmless(value: &str) -> bool {
    if value.contains(['\\', '@']) || value.contains("/*") || looks_like_code(value) {
        return false;
    }
    let mut rest = value;
    let mut quote = None;
    while let Some(at) = rest.find(['"', '\'', '(', '@', '<', '{', '}']) {
        let (before, found) = rest.split_at(at);
        let (letter, after) = (found.as_bytes()[0], &found[1..]);
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(letter),
            (None, b'(') => {
                let name = function_name(before).to_ascii_lowercase();
                if !allowed::has(FUNCTIONS, &name) {
                    return false;
                }
                if name == "url" {
                    let Some(end) = after.find(')') else { return false };
                    if !is_fragment(&after[..end]) {
                        return false;
                    }
                    rest = &after[end..];
                    continue;
                }
            }
            (None, _) => return false,
        }
        rest = after;
    }
    quote.is_none()
}

/// What would run, or fetch, if a string were read as something else. In doubt it goes.
fn looks_like_code(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let outside = |(at, _): (usize, &str)| {
        let argument = lower[at + "url(".len()..].trim_start().trim_start_matches(['"', '\'']);
        !argument.trim_start().starts_with('#')
    };
    ["javascript:", "expression(", "image-set"].iter().any(|code| lower.contains(code))
        || lower.match_indices("url(").any(outside)
}

/// The name right before a bracket: letters, digits, hyphens, and whatever CSS takes for a letter.
fn function_name(before: &str) -> &str {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || !c.is_ascii();
    &before[before.trim_end_matches(is_name).len()..]
}

/// The argument of `url(...)`: a name within the document, quoted or not.
fn is_fragment(argument: &str) -> bool {
    let argument = argument.trim();
    let unquoted = ['"', '\'']
        .iter()
        .find_map(|quote| argument.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(argument)
        .trim();
    unquoted.strip_prefix('#').is_some_and(is_name)
}

/// A name that is neither empty nor could be read as anything else.
pub fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    !name.is_empty() && name.chars().all(is_plain)
}

/// The text without comments, if it is free of escapes and control characters.
fn plain(text: &str) -> Option<String> {
    let unusual = |c: char| c == '\\' || c == '\u{7F}' || (c.is_control() && !matches!(c, '\t' | '\n' | '\r'));
    if text.contains(unusual) {
        return None;
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    let mut quote = None;
    while let Some(at) = rest.find(['"', '\'', '/', '\n', '\r']) {
        let (before, found) = rest.split_at(at);
        kept.push_str(before);
        let letter = found.as_bytes()[0];
        match (quote, letter) {
            (Some(_), b'\n' | b'\r') => return None, // a string that ends nowhere
            (Some(open), _) if letter == open => quote = None,
            (None, b'"' | b'\'') => quote = Some(letter),
            (None, b'/') if found.starts_with("/*") => {
                let end = found[2..].find("*/")? + 4;
                kept.push(' '); // what a comment stands between are two words
                rest = &found[end..];
                continue;
            }
            _ => {}
        }
        kept.push(letter.into());
        rest = &found[1..];
    }
    kept.push_str(rest);
    quote.is_none().then_some(kept)
}

/// The parts between separators that stand in no string and no bracket; `None` when brackets do not match.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut quote, mut open) = (Vec::new(), 0, None, Vec::new());
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(opened), c) if c == opened => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(') => open.push(')'),
            (None, '[') => open.push(']'),
            (None, ')' | ']') if open.pop() != Some(c) => return None,
            (None, '{' | '}') => return None,
            (None, c) if c == separator && open.is_empty() => {
                parts.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    open.is_empty().then_some(parts)
}

fn declaration(text: &str) -> Option<String> {
    let (name, value) = text.split_once(':')?;
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let plain_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    // What old browsers ran as code, and the one property that is a reference without `url`.
    let runs = matches!(name.as_str(), "behavior" | "-moz-binding" | "src");
    let harmless = plain_name && !runs && !value.is_empty() && is_harmless(value);
    let declaration = format!("{name}:{value}");
    (harmless && !looks_like_code(&declaration)).then_some(declaration)
}

/// Rules up to the end; what is not understood is left out.
fn rules(text: &str, nesting: u32, kept: &mut String) -> Option<()> {
    if nesting > MAX_NESTING {
        return None;
    }
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (end, kind) = head_end(rest)?;
        let head = rest[..end].trim();
        if kind == ';' {
            // `@import`, `@charset`, `@namespace`: none of them is wanted.
            rest = rest[end + 1..].trim_start();
            continue;
        }
        let length = block_length(&rest[end..])?;
        let body = &rest[end + 1..end + length - 1];
        rest = rest[end + length..].trim_start();
        let mut inner = String::new();
        match head.strip_prefix('@') {
            Some(at_rule) => {
                let name = at_rule.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).next().unwrap_or_default();
                let name = name.to_ascii_lowercase();
                if !allowed::has(CONDITIONS, &name) || !is_selector(at_rule) {
                    continue;
                }
                rules(body, nesting + 1, &mut inner)?;
            }
            None => {
                if !is_selector(head) {
                    continue;
                }
                let parts = split(body, ';').unwrap_or_default();
                inner = parts.into_iter().filter_map(declaration).collect::<Vec<_>>().join(";");
            }
        }
        if !inner.is_empty() {
            kept.push_str(head);
            kept.push('{');
            kept.push_str(&inner);
            kept.push('}');
        }
    }
    Some(())
}

/// Where a rule's head ends: at its block, or at a semicolon. What closes a block that was never opened ends it all.
fn head_end(text: &str) -> Option<(usize, char)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{' | ';') => return Some((at, c)),
            (None, '}') => return None,
            _ => {}
        }
    }
    None
}

/// The length of a block with its brackets.
fn block_length(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0_u32);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// A selector, or a condition: no markup, no reference, brackets in pairs.
fn is_selector(text: &str) -> bool {
    let plain = |c: char| !matches!(c, '<' | '@' | '{' | '}');
    !text.is_empty()
        && text.chars().all(plain)
        && !text.to_ascii_lowercase().contains("url(")
        && !looks_like_code(text)
        && split(text, ';').is_some_and(|parts| parts.len() == 1)
}
