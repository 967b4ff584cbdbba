//! The document written anew, from what is known to be harmless.

use roxmltree::{Node, NodeType};

use super::{
    allowed::{self, ANIMATIONS, ATTRIBUTES, ELEMENTS, NOT_ANIMATED},
    css,
    document::{Document, SVG, XLINK},
    viewport::Root,
};

const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// The document's text, with other numbers at its root.
pub fn written(document: &Document<'_>, root: &Root) -> String {
    let mut out = String::new();
    let element = document.tree.root_element();
    out.push_str("<svg");
    attribute(&mut out, "xmlns", SVG);
    attribute(&mut out, "xmlns:xlink", XLINK);
    attribute(&mut out, "width", &root.width);
    attribute(&mut out, "height", &root.height);
    attribute(&mut out, "viewBox", &root.view_box);
    attributes(element, &mut out, &["width", "height", "viewBox"]);
    content(element, &mut out, "svg");
    out.push('\n');
    out
}

fn node(node: Node<'_, '_>, out: &mut String) {
    match node.node_type() {
        NodeType::Text => escape(node.text().unwrap_or_default(), out, false),
        NodeType::Element => {
            let name = node.tag_name();
            let harmless = name.namespace() == Some(SVG)
                && allowed::has(ELEMENTS, name.name())
                && (!allowed::has(ANIMATIONS, name.name()) || is_harmless_animation(node));
            if !harmless {
                return;
            }
            if name.name() == "style" {
                return style(node, out);
            }
            out.push('<');
            out.push_str(name.name());
            attributes(node, out, &[]);
            content(node, out, name.name());
        }
        NodeType::Root | NodeType::Comment | NodeType::PI => {}
    }
}

/// What stands between an element's tags, and the end of both.
fn content(element: Node<'_, '_>, out: &mut String, name: &str) {
    out.push('>');
    let empty = out.len();
    element.children().for_each(|child| node(child, out));
    if out.len() == empty {
        out.truncate(empty - 1);
        out.push_str("/>");
        return;
    }
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

fn style(element: Node<'_, '_>, out: &mut String) {
    let is_css = element.attribute("type").is_none_or(|kind| kind.trim().eq_ignore_ascii_case("text/css"));
    let text: String = element.children().filter_map(|child| child.text().filter(|_| child.is_text())).collect();
    let Some(sheet) = css::sheet(&text).filter(|sheet| is_css && !sheet.is_empty()) else { return };
    out.push_str("<style>");
    escape(&sheet, out, false);
    out.push_str("</style>");
}

fn attributes(element: Node<'_, '_>, out: &mut String, except: &[&str]) {
    for found in element.attributes() {
        let (name, value) = (found.name(), found.value());
        match (found.namespace(), name) {
            (None, "style") => {
                if let Some(kept) = css::declarations(value).filter(|kept| !kept.is_empty()) {
                    attribute(out, "style", &kept);
                }
            }
            (None, "href") if is_harmless_link(element, value) => attribute(out, "href", value.trim()),
            (Some(XLINK), "href") if is_harmless_link(element, value) => attribute(out, "xlink:href", value.trim()),
            (Some(XML), "space") if matches!(value, "preserve" | "default") => attribute(out, "xml:space", value),
            (None, name) if allowed::has(ATTRIBUTES, name) && !except.contains(&name) && is_harmless_value(value) => {
                attribute(out, name, value);
            }
            _ => {}
        }
    }
}

/// References, functions and scripts hide in any attribute.
fn is_harmless_value(value: &str) -> bool {
    let letters: String = value.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
    let letters = letters.to_ascii_lowercase();
    css::is_harmless(value) && !letters.contains("javascript:") && !letters.contains("data:")
}

/// A place in the document; for pictures also one that comes along.
fn is_harmless_link(element: Node<'_, '_>, value: &str) -> bool {
    const PICTURES: [&str; 5] =
        ["data:image/png;", "data:image/jpeg;", "data:image/jpg;", "data:image/gif;", "data:image/webp;"];
    let value = value.trim();
    if let Some(name) = value.strip_prefix('#') {
        return css::is_name(name);
    }
    let data = PICTURES.iter().find_map(|kind| value.strip_prefix(kind)?.strip_prefix("base64,"));
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | ' ' | '\t' | '\n' | '\r');
    element.tag_name().name() == "image" && data.is_some_and(|data| data.chars().all(is_base64))
}

/// An animation of an attribute that could as well be written down.
fn is_harmless_animation(element: Node<'_, '_>) -> bool {
    let moves = matches!(element.tag_name().name(), "animateMotion" | "animateTransform");
    match element.attribute("attributeName") {
        Some(name) => allowed::has(ATTRIBUTES, name) && !allowed::has(NOT_ANIMATED, name),
        None => moves,
    }
}

fn attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    escape(value, out, true);
    out.push('"');
}

/// XML's own characters, and in attributes those that a parser would turn into blanks.
fn escape(text: &str, out: &mut String, in_attribute: bool) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' if in_attribute => out.push_str("&quot;"),
            '\t' if in_attribute => out.push_str("&#x9;"),
            '\n' if in_attribute => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            c => out.push(c),
        }
    }
}
