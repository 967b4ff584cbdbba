//! Wagtail's geometry: 2,400 rows from the real `Filter.get_transform`.

use sendimage::{
    model::{FocalPoint, Size},
    render::plan::{self, Solved},
    spec::FilterSpec,
};
use serde_json::{Value, json};

use crate::vectors;

#[test]
fn every_row_of_wagtails_geometry_is_met() {
    let vectors = vectors::json("wagtail_geometry.json");
    let rows = vectors["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2400);
    let wrong: Vec<String> = rows.iter().filter_map(mismatch).collect();
    assert!(
        wrong.is_empty(),
        "{} rows differ, the first of them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
}

fn mismatch(row: &Value) -> Option<String> {
    let size = Size::new(row[0].as_u64().unwrap() as u32, row[1].as_u64().unwrap() as u32);
    let focal_point = row[2].as_array().map(|numbers| {
        let number = |i: usize| numbers[i].as_f64().unwrap();
        FocalPoint { x: number(0), y: number(1), width: number(2), height: number(3) }
    });
    let spec = FilterSpec::parse(row[3].as_str().unwrap());
    let found = spec
        .map_err(|e| e.to_string())
        .and_then(|spec| plan::solve(size, None, &spec, focal_point).map_err(|error| error.to_string()));
    // A row without a clamped crop is one that Wagtail fails on; ours must be refused too.
    let agrees = match (&found, row[6].is_null()) {
        (Ok(Solved { crop, output_size: output, .. }), false) => {
            json!([crop.left, crop.top, crop.right, crop.bottom]) == row[6]
                && json!([output.width, output.height]) == row[5]
        }
        (found, expects_failure) => found.is_err() == expects_failure,
    };
    (!agrees).then(|| format!("{row} gave {found:?}"))
}
