//! Attacks, sizes, and whatever else is thrown at a rewriter.

use proptest::prelude::*;

use super::{
    document::{SVG, XLINK},
    *,
};
use crate::render::{picture::Layout, plan::Encoding};

fn wrapped(body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" width=\"20\" \
         height=\"10\">{body}</svg>"
    )
}

/// The document rewritten as it is.
fn whole(text: &str) -> Result<String, RenderError> {
    let text = document::text(text.as_bytes())?;
    let document = Document::parse(&text)?;
    Ok(write::written(&document, &document.viewport.whole()))
}

/// What must never be in a rewritten document, found apart from the rewriter.
fn complaint(text: &str) -> Option<String> {
    const FORBIDDEN: [&str; 12] = [
        "script",
        "foreignobject",
        "iframe",
        "object",
        "embed",
        "audio",
        "video",
        "handler",
        "listener",
        "canvas",
        "link",
        "meta",
    ];
    let tree = match roxmltree::Document::parse(text) {
        Ok(tree) => tree,
        Err(error) => return Some(error.to_string()),
    };
    for node in tree.descendants() {
        if node.is_comment() || node.is_pi() {
            return Some("a comment or an instruction".into());
        }
        if !node.is_element() {
            continue;
        }
        let name = node.tag_name().name();
        if node.tag_name().namespace() != Some(SVG) || FORBIDDEN.contains(&name.to_ascii_lowercase().as_str()) {
            return Some(format!("an element {name}"));
        }
        let style: String = if name == "style" { node.text().unwrap_or_default().into() } else { String::new() };
        let values = node.attributes().map(|found| (found.name(), found.namespace(), found.value()));
        for (name, namespace, value) in values.chain([("", None, style.as_str())]) {
            let lower = value.to_ascii_lowercase();
            let link = name == "href" && matches!(namespace, None | Some(XLINK));
            let picture = lower.starts_with("data:image/") && !lower.starts_with("data:image/svg");
            let references = lower.match_indices("url(").all(|(at, _)| {
                lower[at + 4..].trim_start().trim_start_matches(['"', '\'']).trim_start().starts_with('#')
            });
            if name.to_ascii_lowercase().starts_with("on")
                || (namespace.is_some() && !link && name != "space")
                || (link && !value.starts_with('#') && !picture)
                || !references
                || ["javascript:", "@import", "expression(", "image-set", "-moz-binding", "behavior", "\\"]
                    .iter()
                    .any(|bad| lower.contains(bad))
                || (name == "attributeName" && lower.contains("href"))
            {
                return Some(format!("{name}={value:?}"));
            }
        }
    }
    None
}

/// Each of them says EVIL where it would do harm.
const ATTACKS: &[&str] = &[
    "<script>EVIL</script>",
    "<script href='https://EVIL'/>",
    "<script xlink:href='data:text/javascript,EVIL'/>",
    "<SCRIPT>EVIL</SCRIPT>",
    "<x:script xmlns:x='http://www.w3.org/2000/svg'>EVIL</x:script>",
    "<h:script xmlns:h='http://www.w3.org/1999/xhtml'>EVIL</h:script>",
    "<g xmlns='http://www.w3.org/1999/xhtml'><script>EVIL</script></g>",
    "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml'><img src='x' onerror='EVIL'/></body></foreignObject>",
    "<foreignObject><iframe xmlns='http://www.w3.org/1999/xhtml' src='https://EVIL'/></foreignObject>",
    "<iframe src='https://EVIL'/>",
    "<object data='https://EVIL'/>",
    "<embed src='https://EVIL'/>",
    "<audio src='https://EVIL' onerror='EVIL'/>",
    "<video href='https://EVIL'/>",
    "<handler xmlns:ev='http://www.w3.org/2001/xml-events' ev:event='load'>EVIL</handler>",
    "<rect onclick='EVIL' width='1' height='1'/>",
    "<rect onload='EVIL'/>",
    "<rect OnLoad='EVIL'/>",
    "<rect onbegin='EVIL'/><animate onend='EVIL' attributeName='x'/>",
    "<a href='javascript:EVIL'><rect/></a>",
    "<a xlink:href='javascript:EVIL'><rect/></a>",
    "<a href=' &#9;java&#10;script:EVIL'><rect/></a>",
    "<a href='&#106;avascript:EVIL'><rect/></a>",
    "<a xlink:href='https://EVIL'/>",
    "<use href='https://EVIL#a'/>",
    "<use xlink:href='data:image/svg+xml;base64,EVIL#a'/>",
    "<image href='https://EVIL/x.png'/>",
    "<image href='//EVIL/x.png'/>",
    "<image href='file:///EVIL'/>",
    "<image href='data:image/svg+xml;base64,EVIL'/>",
    "<image href='data:image/svg+xml,EVIL'/>",
    "<image href='data:image/png;charset=x;base64,EVIL'/>",
    "<image xlink:href='data:text/html;base64,EVIL'/>",
    "<image href='data:image/png;base64,&lt;EVIL'/>",
    "<feImage href='https://EVIL'/>",
    "<filter id='f'><feImage xlink:href='https://EVIL'/></filter>",
    "<rect fill='url(https://EVIL)'/>",
    "<rect fill='URL( \"https://EVIL\" )'/>",
    "<rect filter='url(EVIL.svg#f)'/>",
    "<rect fill='url(#a) url(https://EVIL)'/>",
    "<rect mask='\\75rl(https://EVIL)'/>",
    "<rect style='fill:url(https://EVIL)'/>",
    "<rect style='fill:u\\72l(https://EVIL)'/>",
    "<rect style='fill:\\75 rl(//EVIL)'/>",
    "<rect style='fill:ur/**/l(https://EVIL)'/>",
    "<rect style='fill:url(/**/https://EVIL)'/>",
    "<rect style='background:image-set(\"https://EVIL\" 1x)'/>",
    "<rect style='width:expression(EVIL)'/>",
    "<rect style='behavior:url(#EVIL)'/>",
    "<rect style='-moz-binding:url(https://EVIL)'/>",
    "<rect style='fill:\"a\nurl(https://EVIL)'/>",
    "<rect style='fill:red;stroke:src(\"https://EVIL\")'/>",
    "<rect style='fill:url(#a\") url(https://EVIL)'/>",
    "<style>@import 'https://EVIL';</style>",
    "<style>@import url(https://EVIL);rect{fill:red}</style>",
    "<style>@\\69mport 'https://EVIL';</style>",
    "<style>/**/@import/**/'https://EVIL';</style>",
    "<style><![CDATA[@import 'https://EVIL';]]></style>",
    "<style>rect{fill:url(https://EVIL)}</style>",
    "<style>rect{fill:/*\"*/url(https://EVIL)/*\"*/}</style>",
    "<style>@font-face{font-family:a;src:url(https://EVIL)}</style>",
    "<style>@media all{@import 'https://EVIL';rect{fill:url(//EVIL)}}</style>",
    "<style>@media all{rect{fill:url(//EVIL)}",
    "<style>rect{fill:red}}@import 'https://EVIL';</style>",
    "<style>&lt;/style>&lt;script>EVIL&lt;/script></style>",
    "<style type='text/css'>a{b:'}</style><style>'}@import \"https://EVIL\";</style>",
    "<style>@namespace url(https://EVIL);</style>",
    "<style>@charset \"EVIL\";</style>",
    "<style>rect{--EVIL:url(https://EVIL)}</style>",
    "<animate attributeName='href' values='javascript:EVIL'/>",
    "<a><animate attributeName='xlink:href' to='https://EVIL'/></a>",
    "<set attributeName='onclick' to='EVIL'/>",
    "<set attributeName='style' to='EVIL'/>",
    "<animate attributeName='fill' values='url(https://EVIL)'/>",
    "<animate attributeName='values' values='EVIL'/>",
    "<set to='EVIL'/>",
    "<?xml-stylesheet href='https://EVIL'?>",
    "<?php EVIL ?>",
    "<!-- EVIL -->",
    "<metadata>EVIL</metadata>",
    "<g x:onload='EVIL' xmlns:x='http://www.w3.org/2000/svg'/>",
    "<g xml:base='https://EVIL'/>",
    "<g data-x='EVIL' is='EVIL' srcdoc='EVIL' formaction='EVIL' src='https://EVIL'/>",
    "<cursor xlink:href='https://EVIL'/><font-face-uri xlink:href='https://EVIL'/>",
    "<tref xlink:href='https://EVIL'/><discard href='#EVIL'/>",
    "<color-profile xlink:href='https://EVIL'/>",
];

#[test]
fn attacks_leave_nothing_behind() {
    assert!(ATTACKS.len() >= 40);
    let mut refused = 0;
    for attack in ATTACKS {
        let Ok(written) = whole(&wrapped(attack)) else {
            refused += 1;
            continue;
        };
        assert!(!written.contains("EVIL"), "{attack}\n{written}");
        assert_eq!(complaint(&written), None, "{attack}\n{written}");
        assert_eq!(whole(&written).as_ref(), Ok(&written), "{attack}");
    }
    println!("{} attacks, {refused} of them no XML at all", ATTACKS.len());
    assert!(refused <= 2, "{refused}");
}

#[test]
fn at_the_root_too() {
    let text = "<?xml version='1.0'?><?xml-stylesheet href='EVIL'?><!-- EVIL --><!DOCTYPE svg PUBLIC 'EVIL' 'http://EVIL'>\n\
                <svg xmlns='http://www.w3.org/2000/svg' onload='EVIL' viewBox='0 0 4 4' style='fill:url(EVIL)' \
                xmlns:e='EVIL' e:x='EVIL'><g/></svg><!-- EVIL -->";
    let written = whole(text).unwrap();
    assert!(!written.contains("EVIL"), "{written}");
    assert_eq!(complaint(&written), None);
}

#[test]
fn what_a_drawing_needs_stays() {
    let body = "<defs><linearGradient id='a.1'><stop offset='0' style='stop-color:#fff;stop-opacity:.5'/></linearGradient>\
                </defs><style>.a > .b, [id=\"x;y\"] { fill: url(#a.1); font-family: 'Open \"Sans\"' } @media (min-width: 1px) \
                {.c{transform:rotate(3deg) scale(2)}}</style><g class='a' transform='translate(1 2)'><rect class='b' \
                fill='url( \"#a.1\" )' width='5' height='6'/><use xlink:href='#a.1'/><text xml:space='preserve'>a &lt; b</text>\
                </g><animate attributeName='x' from='0' to='9' dur='2s' repeatCount='indefinite'/>\
                <image href='data:image/png;base64,iVBORw0KGgo=' width='1' height='1'/>";
    let written = whole(&wrapped(body)).unwrap();
    for part in [
        "stop-color:#fff;stop-opacity:.5",
        ".a &gt; .b, [id=\"x;y\"]{fill:url(#a.1);font-family:'Open \"Sans\"'}",
        "@media (min-width: 1px){.c{transform:rotate(3deg) scale(2)}}",
        "transform=\"translate(1 2)\"",
        "fill=\"url( &quot;#a.1&quot; )\"",
        "<use xlink:href=\"#a.1\"/>",
        "<text xml:space=\"preserve\">a &lt; b</text>",
        "<animate attributeName=\"x\" from=\"0\" to=\"9\" dur=\"2s\" repeatCount=\"indefinite\"/>",
        "href=\"data:image/png;base64,iVBORw0KGgo=\"",
    ] {
        assert!(written.contains(part), "{part}\n{written}");
    }
    assert_eq!(complaint(&written), None);
    assert_eq!(whole(&written).unwrap(), written);
}

fn damaged_detail(text: &str) -> String {
    match whole(text) {
        Err(RenderError::Corrupt { format: ImageFormat::Svg, detail }) => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn bombs_are_refused() {
    let laughs =
        "<!DOCTYPE svg [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;\">]><svg xmlns='http://www.w3.org/2000/svg'>&b;</svg>";
    assert!(damaged_detail(laughs).contains("entities"));
    let outside =
        "<!DOCTYPE svg [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><svg xmlns='http://www.w3.org/2000/svg'>&x;</svg>";
    assert!(damaged_detail(outside).contains("entities"));
    assert!(damaged_detail(&wrapped("&x;")).contains("entity"));
    let deep = format!("{}{}", "<g>".repeat(100_000), "</g>".repeat(100_000));
    assert!(damaged_detail(&wrapped(&deep)).contains("deep"));
    let many = "<g/>".repeat(500_000);
    assert!(damaged_detail(&wrapped(&many)).contains("limit"));
    // Each group shows the one before ten times.
    let tenfold: String =
        (1..12).map(|i| format!("<g id='g{i}'>{}</g>", format!("<use href='#g{}'/>", i - 1).repeat(10))).collect();
    assert!(damaged_detail(&wrapped(&format!("<g id='g0'/>{tenfold}"))).contains("too much"));
    let chain: String = (1..1000).map(|i| format!("<g id='g{i}'><use href='#g{}'/></g>", i - 1)).collect();
    assert!(damaged_detail(&wrapped(&format!("<g id='g0'/>{chain}"))).contains("deep"));
    assert!(damaged_detail(&wrapped("<g id='a'><use xlink:href='#a'/></g>")).contains("itself"));
}

fn size(attributes: &str) -> Option<(f64, f64)> {
    let text = format!("<svg xmlns='http://www.w3.org/2000/svg' {attributes}/>");
    let facts = probe(text.as_bytes()).ok()?;
    assert!(facts.is_plausible(), "{facts:?}");
    facts.document.map(|size| (size.width, size.height))
}

#[test]
fn sizes_are_willows() {
    for (attributes, wanted) in [
        ("", Some((300.0, 150.0))),
        ("viewBox='0 0 7.5 8'", Some((7.5, 8.0))),
        ("viewBox='0,0, 7 8'", Some((7.0, 8.0))),
        ("width='20' height='10px'", Some((20.0, 10.0))),
        ("width='2em' height='3ex'", Some((32.0, 24.0))),
        ("width='1in' height='2.54cm'", Some((96.0, 96.0))),
        ("width='25.4mm' height='6pc'", Some((96.0, 96.0))),
        ("width='72pt' height='1e2'", Some((96.0, 100.0))),
        ("width='20'", Some((20.0, 20.0))),
        ("height='5mm' viewBox='0 0 1 1'", Some((5.0 * 96.0 / 25.4, 5.0 * 96.0 / 25.4))),
        ("width='100%' height='30'", Some((30.0, 30.0))),
        ("width='30' height='50%'", Some((30.0, 30.0))),
        ("width='100%' height='100%'", Some((300.0, 150.0))),
        ("width='100%' height='100%' viewBox='1 2 3 4'", Some((3.0, 4.0))),
        ("width='' height=''", Some((300.0, 150.0))),
        ("width='0' height='1'", None),
        ("width='-1'", None),
        ("width='nan' height='inf'", None),
        ("width='1e999'", None),
        ("width='ten'", None),
        ("width='1rem'", None),
        ("viewBox='0 0 0 9'", None),
        ("viewBox='0 0 -1 9'", None),
        ("viewBox='0 0 nan 9'", None),
        ("viewBox='0 0 9'", None),
        ("viewBox='0 0 9 9 9'", None),
        ("preserveAspectRatio='xMinYMax slice'", Some((300.0, 150.0))),
        ("preserveAspectRatio='none'", Some((300.0, 150.0))),
        ("preserveAspectRatio='xMinYMin twice'", None),
        ("preserveAspectRatio='middle'", None),
    ] {
        let near = |(a, b): (f64, f64)| ((a * 1e9).round(), (b * 1e9).round());
        assert_eq!(size(attributes).map(near), wanted.map(near), "{attributes}");
    }
    assert!(probe(b"<svg width='1' height='1'/>").is_err(), "without its namespace no browser shows it");
    assert!(probe(b"<?xml version='1.0' encoding='ISO-8859-1'?><svg xmlns='http://www.w3.org/2000/svg'><title>\xE9</title></svg>").is_err());
}

fn drawn(body: &str, crop: PixelRect, output: Size) -> Result<Picture, RenderError> {
    let text = wrapped(body);
    let plan = Plan::whole(probe(text.as_bytes())?, Encoding::Png);
    draw(text.as_bytes(), &plan, crop, output)
}

fn pixel(picture: &Picture, x: usize, y: usize) -> [u8; 4] {
    picture.pixels.as_chunks::<4>().0[y * picture.size.width as usize + x]
}

#[test]
fn a_crop_is_drawn_at_its_size() {
    let body = "<rect x='10' width='10' height='10' fill='#ff8000' fill-opacity='.5'/><style>circle{fill:blue}</style>\
                <circle cx='2' cy='2' r='2'/>";
    let crop = PixelRect { left: 5, top: 0, right: 15, bottom: 10 };
    let picture = drawn(body, crop, Size::new(40, 20)).unwrap();
    assert_eq!((picture.size, picture.layout), (Size::new(40, 20), Layout::Rgba8));
    assert_eq!(pixel(&picture, 10, 10), [0; 4]);
    let [r, g, b, alpha] = pixel(&picture, 30, 10);
    assert!(
        (254..=255).contains(&r) && g.abs_diff(128) <= 2 && b == 0 && alpha.abs_diff(128) <= 1,
        "{r} {g} {b} {alpha}"
    );
    let picture = drawn(body, PixelRect { left: 0, top: 0, right: 20, bottom: 10 }, Size::new(20, 10)).unwrap();
    assert_eq!(pixel(&picture, 1, 1), [0, 0, 255, 255]);
}

#[test]
fn what_would_be_missing_is_said() {
    let crop = PixelRect { left: 0, top: 0, right: 20, bottom: 10 };
    for body in
        ["<text>words</text>", "<g><text><tspan>words</tspan></text></g>", "<image href='data:image/png;base64,AA=='/>"]
    {
        assert!(matches!(drawn(body, crop, Size::new(2, 1)), Err(RenderError::Unsupported { .. })), "{body}");
    }
    assert!(drawn("<text> </text><title>words</title>", crop, Size::new(2, 1)).is_ok());
}

#[test]
fn an_arc_around_the_world_is_refused() {
    let crop = PixelRect { left: 0, top: 0, right: 20, bottom: 10 };
    for path in ["M0 0L1e38 1e38A1 1 0 0 0 9 0Z", "M0,0A1 1 0 0 0 1E+12,0", "M0 0h12345678901", "M1.5e10-3"] {
        assert!(drawn(&format!("<path d='{path}'/>"), crop, Size::new(20, 10)).is_err(), "{path}");
    }
    for path in ["M0 0L1e8 1.23456789012345A5 5 0 0 0 9 0Z", "M.00000000000001-1e-30", "M000000000001 1e+9z"] {
        assert!(drawn(&format!("<path d='{path}'/>"), crop, Size::new(20, 10)).is_ok(), "{path}");
    }
}

#[test]
fn odd_numbers_draw_nothing_worse_than_nothing() {
    let crop = PixelRect { left: 0, top: 0, right: 20, bottom: 10 };
    for body in [
        "<rect x='1e38' y='-1e38' width='1e39' height='1e38'/>",
        "<rect width='nan' height='inf' rx='NaN'/>",
        "<g transform='scale(1e30)'><rect width='1e30' height='1'/></g>",
        "<g transform='matrix(0 0 0 0 0 0)'><circle r='5'/></g>",
        "<path d='M0 0L1e38 1e38A1 1 0 0 0 9 0Z' stroke='red' stroke-width='1e30'/>",
        "<filter id='f' x='-1e9' width='1e20' height='1e20'><feGaussianBlur stdDeviation='1e9'/></filter><rect \
         filter='url(#f)' width='9' height='9'/>",
        "<pattern id='p' width='1e-9' height='1e-9'><rect width='1' height='1'/></pattern><rect fill='url(#p)' width='9' height='9'/>",
        "<pattern id='p' width='1' height='1'><rect fill='url(#p)' width='1' height='1'/></pattern><rect fill='url(#p)' width='9' height='9'/>",
        "<mask id='m' mask='url(#m)'><rect width='1' height='1'/></mask><rect mask='url(#m)' width='9' height='9'/>",
        "<marker id='m'><path d='M0 0L1 1' marker-end='url(#m)'/></marker><path d='M0 0L9 9' marker-end='url(#m)'/>",
    ] {
        let _ = drawn(body, crop, Size::new(20, 10));
    }
    for attributes in
        ["viewBox='0 0 1e30 1e30'", "viewBox='-1e300 0 1e-300 1e300'", "viewBox='1e308 1e308 1e308 1e308'"]
    {
        let text = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='20' height='10' {attributes}><rect width='1e30' height='9'/></svg>"
        );
        let facts = probe(text.as_bytes()).unwrap();
        let plan = Plan { document: facts.document, ..Plan::whole(facts, Encoding::Svg) };
        let _ = draw(text.as_bytes(), &plan, crop, Size::new(20, 10));
        let _ = rewrite(text.as_bytes(), &plan);
    }
}

/// Pieces that a hostile document might be made of, in any order.
const PIECES: &[&str] = &[
    "<g>",
    "</g>",
    "<a href='",
    "<style>",
    "</style>",
    "<rect style='",
    "<rect fill='",
    "'/>",
    "'>",
    "\"",
    "'",
    "<",
    ">",
    "{",
    "}",
    "(",
    ")",
    ";",
    ":",
    "@import",
    "@media all",
    "url(",
    "#a",
    "https://x",
    "javascript:",
    "\\75",
    "/*",
    "*/",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "&lt;",
    "&#x26;",
    "&quot;",
    "&#10;",
    "&#0;",
    " ",
    "\n",
    "rect",
    "fill",
    "red",
    "expression",
    "data:image/png;base64,AA",
    "<script>",
    "</script>",
    "onload='",
    "<use xlink:href='",
    "id='a'",
    "<svg:g xmlns:svg='http://www.w3.org/2000/svg'>",
    "</svg:g>",
    "<animate attributeName='",
    "href",
    "to='",
    "<text>",
    "</text>",
    "é",
    "\u{2028}",
    "\u{FFFD}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn whatever_goes_in_comes_out_harmless(pieces in proptest::collection::vec(0..PIECES.len(), 0..14)) {
        let body: String = pieces.into_iter().map(|i| PIECES[i]).collect();
        if let Ok(written) = whole(&wrapped(&body)) {
            prop_assert_eq!(complaint(&written), None, "{}\n{}", body, written);
            let again = whole(&written);
            prop_assert_eq!(again.as_ref(), Ok(&written), "{}", body);
        }
    }

    #[test]
    fn styles_come_out_harmless(pieces in proptest::collection::vec(0..PIECES.len(), 0..14), sheet in any::<bool>()) {
        let text: String = pieces.into_iter().map(|i| PIECES[i]).collect();
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        let body = match sheet {
            true => format!("<style>{escaped}</style>"),
            false => format!("<rect style=\"{escaped}\" fill=\"{escaped}\" class=\"{escaped}\"/>"),
        };
        let written = whole(&wrapped(&body)).unwrap();
        prop_assert_eq!(complaint(&written), None, "{}\n{}", body, written);
        let again = whole(&written);
        prop_assert_eq!(again.as_ref(), Ok(&written), "{}", body);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
        let _ = probe(text.as_bytes());
        let _ = whole(&wrapped(&text));
    }
}
