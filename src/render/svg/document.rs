//! The parsed document, within bounds.

use std::{borrow::Cow, collections::HashMap};

use roxmltree::{Node, NodeId, NodeType, ParsingOptions};

use super::{damaged, viewport::Viewport};
use crate::{model::DocumentSize, render::RenderError};

pub const SVG: &str = "http://www.w3.org/2000/svg";
pub const XLINK: &str = "http://www.w3.org/1999/xlink";

/// Nodes in a file: elements, texts, comments.
const MAX_NODES: u32 = 400_000;
/// Elements within elements, `use` followed to what it shows. Drawings made by people stay below thirty.
const MAX_DEPTH: u32 = 200;
/// Elements after every `use` has been followed: a few lines of XML can ask for billions.
const MAX_SHOWN: u64 = 500_000;

/// An SVG document.
pub struct Document<'t> {
    pub tree: roxmltree::Document<'t>,
    pub viewport: Viewport,
}

/// The file as text, without a document type: plain ones are common and say nothing; those that declare entities are not
/// read at all.
pub fn text(source: &[u8]) -> Result<Cow<'_, str>, RenderError> {
    let text = str::from_utf8(source).map_err(|_| damaged("it is not in UTF-8"))?;
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text).trim_start();
    let mut at = 0;
    // What may stand before the root element: a declaration, instructions, comments, a document type.
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start();
        let start = at + rest.len() - trimmed.len();
        let past = |end: &str| trimmed.find(end).map(|found| start + found + end.len());
        let skipped = if trimmed.starts_with("<?") {
            past("?>")
        } else if trimmed.starts_with("<!--") {
            past("-->")
        } else if trimmed.starts_with("<!DOCTYPE") {
            let end = past(">").ok_or_else(|| damaged("the document type does not end"))?;
            let declaration = &text[start..end];
            if declaration.contains(['[', '%', '&']) {
                return Err(damaged("it declares entities"));
            }
            return Ok(Cow::Owned([&text[..start], text[end..].trim_start()].concat()));
        } else {
            None
        };
        match skipped {
            Some(next) => at = next,
            None => return Ok(Cow::Borrowed(text)),
        }
    }
}

/// The viewport of a document, by its root's start tag.
pub fn root(text: &str) -> Result<Viewport, RenderError> {
    let damaged = || damaged("its root is no SVG element");
    // Declarations and comments hold no start tag that a search from here could take for the root's.
    let mut rest = text;
    while let Some(after) = rest
        .strip_prefix("<?")
        .and_then(|rest| Some(rest.split_once("?>")?.1))
        .or_else(|| rest.strip_prefix("<!--").and_then(|rest| Some(rest.split_once("-->")?.1)))
    {
        rest = after.trim_start();
    }
    let mut quote = None;
    let end = rest.char_indices().find(|(_, c)| {
        match (quote, c) {
            (Some(open), c) if open == *c => quote = None,
            (None, '"' | '\'') => quote = Some(*c),
            _ => {}
        }
        quote.is_none() && *c == '>'
    });
    let (end, _) = end.ok_or_else(damaged)?;
    let tag = format!("{}/>", rest[..end].trim_end_matches('/'));
    Ok(Document::parse(&tag)?.viewport)
}

impl<'t> Document<'t> {
    /// Parses, and sees that nothing in it is without bounds.
    pub fn parse(text: &'t str) -> Result<Self, RenderError> {
        // Without a document type there are no entities beyond XML's five.
        let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, entity_resolver: None };
        let tree = roxmltree::Document::parse_with_options(text, options).map_err(damaged)?;
        let root = tree.root_element();
        if !root.has_tag_name((SVG, "svg")) {
            return Err(damaged("its root is no SVG element"));
        }
        let viewport = Viewport::of(root)?;
        check_extent(&tree)?;
        Ok(Self { tree, viewport })
    }

    /// The file must be of the size that the plan was made for.
    pub fn expect(&self, size: Option<DocumentSize>) -> Result<(), RenderError> {
        if Some(self.viewport.size) == size { Ok(()) } else { Err(RenderError::Changed) }
    }
}

/// Where an element points to within the document.
pub fn fragment<'t>(node: Node<'t, '_>) -> Option<&'t str> {
    let href = node.attribute("href").or_else(|| node.attribute((XLINK, "href")))?;
    href.trim().strip_prefix('#')
}

/// How much there is to draw: of a node with everything in it, each `use` counted with what it shows.
#[derive(Clone, Copy)]
enum Extent {
    /// Being counted: met again, it contains itself.
    Open,
    Known {
        shown: u64,
        depth: u32,
    },
}

fn check_extent(tree: &roxmltree::Document<'_>) -> Result<(), RenderError> {
    // The parser has no bound of its own on depth, and what follows goes down recursively.
    let mut depth = 0_u32;
    let mut node = tree.root();
    'walk: loop {
        if let Some(child) = node.first_child() {
            (node, depth) = (child, depth + 1);
            if depth > MAX_DEPTH {
                return Err(damaged("elements are nested too deep"));
            }
            continue;
        }
        loop {
            if let Some(next) = node.next_sibling() {
                node = next;
                break;
            }
            match node.parent() {
                Some(parent) => (node, depth) = (parent, depth - 1),
                None => break 'walk,
            }
        }
    }
    let mut ids = HashMap::new();
    for node in tree.descendants() {
        if let Some(id) = node.attribute("id") {
            ids.entry(id).or_insert(node);
        }
    }
    let mut known = HashMap::new();
    extent(tree.root_element(), &ids, &mut known, 0).map(drop)
}

fn extent<'t, 'x>(
    node: Node<'t, 'x>,
    ids: &HashMap<&'t str, Node<'t, 'x>>,
    known: &mut HashMap<NodeId, Extent>,
    level: u32,
) -> Result<(u64, u32), RenderError> {
    match known.get(&node.id()) {
        Some(Extent::Known { shown, depth }) => return Ok((*shown, *depth)),
        Some(Extent::Open) => return Err(damaged("an element contains itself")),
        None => {}
    }
    let too_deep = || damaged("elements are nested too deep");
    if level > MAX_DEPTH {
        return Err(too_deep());
    }
    known.insert(node.id(), Extent::Open);
    let (mut shown, mut depth) = (1_u64, 0_u32);
    let target = if node.tag_name().name() == "use" { fragment(node).and_then(|id| ids.get(id)) } else { None };
    for part in node.children().filter(|child| child.node_type() == NodeType::Element).chain(target.copied()) {
        let (more, deeper) = extent(part, ids, known, level + 1)?;
        shown = shown.saturating_add(more);
        depth = depth.max(deeper + 1);
    }
    if shown > MAX_SHOWN {
        return Err(damaged("there is too much in it"));
    }
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    known.insert(node.id(), Extent::Known { shown, depth });
    Ok((shown, depth))
}
