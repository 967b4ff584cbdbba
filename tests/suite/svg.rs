//! SVG against Wagtail's: the numbers at the root, to the letter; and what a picture of one looks like.

use sendimage::{
    app,
    config::RenderConfig,
    model::{FocalPoint, ImageFormat},
    render::{self, Plan},
    spec::FilterSpec,
    workers::Marks,
};

use crate::{harness::Site, pictures::Pixels, vectors};

fn rendered(source: &[u8], spec: &str, focal_point: Option<FocalPoint>) -> Result<Vec<u8>, String> {
    let spec = FilterSpec::parse(spec).map_err(|error| error.to_string())?;
    let facts = render::probe(source).map_err(|error| error.to_string())?;
    let defaults = app::defaults(&RenderConfig::default(), &Marks::default());
    let plan = Plan::new(&facts, &spec, focal_point, &defaults).map_err(|error| error.to_string())?;
    render::render(source, &plan).map(|made| made.bytes).map_err(|error| error.to_string())
}

fn image(name: &str) -> Vec<u8> {
    std::fs::read(vectors::folder().join("images").join(name)).unwrap()
}

#[test]
fn wagtails_svg_renditions_are_met() {
    let vectors = vectors::json("wagtail_renditions.json");
    let (mut met, mut refused, mut drawn, mut wrong) = (0, 0, 0, Vec::new());
    for row in vectors["rows"].as_array().unwrap() {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        if !text("image").ends_with(".svg") {
            continue;
        }
        let name = format!("{} {}", text("image"), text("filter_spec"));
        let number = |key: &str| row["focal_point"][key].as_f64();
        let focal_point = number("x").map(|x| FocalPoint {
            x,
            y: number("y").unwrap(),
            width: number("w").unwrap(),
            height: number("h").unwrap(),
        });
        let made = rendered(&image(text("image")), text("filter_spec"), focal_point);
        match (text("status"), made) {
            ("ok", Ok(bytes)) => {
                let written = String::from_utf8(bytes).unwrap();
                let tree = roxmltree::Document::parse(&written).unwrap();
                let root = tree.root_element();
                let wanted = row["output"]["svg_root"].as_object().unwrap();
                for key in ["width", "height", "viewBox", "preserveAspectRatio"] {
                    let wanted = wanted.get(key).and_then(|value| value.as_str());
                    if root.attribute(key) != wanted {
                        wrong.push(format!("{name}: {key} {:?} instead of {wanted:?}", root.attribute(key)));
                    }
                }
                met += 1;
            }
            // Wagtail draws nothing; `format-svg` is no format of its grammar.
            ("error", Ok(bytes)) if name.contains("format-png") || name.contains("bgcolor") => {
                let pixels = Pixels::decode(&bytes);
                assert_eq!(ImageFormat::detect(&bytes), Some(ImageFormat::Png), "{name}");
                assert_eq!(pixels.width, 50, "{name}");
                drawn += 1;
            }
            ("error", Err(_)) => refused += 1,
            (_, made) => wrong.push(format!("{name}: {:?}", made.map(|bytes| bytes.len()))),
        }
    }
    println!("{met} rows met, {drawn} drawn where Wagtail fails, {refused} refused");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(met + drawn + refused, 66);
}

#[test]
fn a_drawing_becomes_a_picture() {
    let png = rendered(&image("vector.svg"), "width-200|format-png", None).unwrap();
    let pixels = Pixels::decode(&png);
    let pixel = |x: u32, y: u32| pixels.rgba[(y * pixels.width + x) as usize * 4..][..4].to_vec();
    assert_eq!((pixels.width, pixels.height), (200, 100));
    assert_eq!(
        (pixel(1, 1), pixel(20, 20), pixel(100, 50)),
        (vec![0; 4], vec![0, 0x99, 255, 255], vec![255, 0xCC, 0, 255])
    );
    let turned = Pixels::decode(&rendered(&image("vector.svg"), "fill-40x80|rotate-90|bgcolor-f00", None).unwrap());
    assert_eq!((turned.width, turned.height), (80, 40));
    let jpeg = rendered(&image("vector.svg"), "scale-300|format-jpeg", None).unwrap();
    assert_eq!(Pixels::decode(&jpeg).width, 600);
    assert!(rendered(&image("vector.svg"), "trim-10", None).is_err(), "not without a look");
}

#[test]
fn svg_is_served_only_where_the_source_says_so() {
    let mut site = Site::new("").serve();
    site.add("vector.svg", "a.svg");
    let url = site.sign(&["media/a.svg", "width-50"]);
    assert_eq!(site.gate("GET", &url, "").status, 422);
    let bad = "<svg xmlns='http://www.w3.org/2000/svg' width='-1'/>";
    std::fs::write(site.path("media/bad.svg"), bad).unwrap();
    let text = "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script><text>a</text></svg>";
    std::fs::write(site.path("media/text.svg"), text).unwrap();
    let write = |name: &str, body: &str| {
        let text = format!("<svg xmlns='http://www.w3.org/2000/svg' width='20' height='10'>{body}</svg>");
        std::fs::write(site.path("media").join(name), text).unwrap();
    };
    write("deep.svg", &format!("{}{}", "<g>".repeat(50_000), "</g>".repeat(50_000)));
    write("many.svg", &"<path d='M0 0h9v9z' stroke='red'/>".repeat(60_000));
    write(
        "blur.svg",
        "<filter id='f'><feGaussianBlur stdDeviation='1e9'/></filter><rect filter='url(#f)' width='9' height='9'/>",
    );
    site.signal(rustix::process::Signal::TERM);
    site.wait();
    site.configure("svg = true\n[signing]\nsecret = \"0123456789abcdef\"\n");
    site.start();
    let ask = |path: &str, spec: &str| site.gate("GET", &site.sign(&[path, spec]), "");
    // Whether a blur without bounds is drawn or refused, no worker is lost.
    assert!([200, 422].contains(&ask("media/blur.svg", "scale-1000|format-png").status));
    assert!(!site.log().contains("worker was ended"), "{}", site.log());
    for (path, spec, status) in [
        ("media/a.svg", "width-50", 200),
        ("media/a.svg", "trim-10|width-50|format-webp", 200),
        ("media/a.svg", "fill-30x30|smart|format-png", 200),
        ("media/bad.svg", "width-50", 422),
        ("media/text.svg", "width-50", 200),
        ("media/text.svg", "width-50|format-png", 422),
        ("media/deep.svg", "width-50", 422),
        ("media/deep.svg", "width-50|format-png", 422),
        ("media/many.svg", "width-10", 200),
        ("media/many.svg", "width-10|format-png", 200),
    ] {
        let response = ask(path, spec);
        assert_eq!(response.status, status, "{path} {spec}\n{}", site.log());
        if spec == "width-50" && status == 200 {
            assert_eq!(response.header("content-type"), Some("image/svg+xml".to_owned()));
        }
    }
}
