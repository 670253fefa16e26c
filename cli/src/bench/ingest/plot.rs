//! Draws the curves of a report as SVG.

use anyhow::anyhow;
use plotters::prelude::*;

const SIZE: (u32, u32) = (760, 360);
/// Told apart on light and dark ground, and by people who do not see red and green apart.
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(110, 110, 110),
];
/// Below it nobody cares, and a logarithm needs an end.
const LEAST_MS: f64 = 0.1;

/// One line of a plot, with its name in the legend.
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Milliseconds, on a logarithmic axis, over something that `label` writes.
pub fn milliseconds(x: &str, curves: &[Curve], label: &dyn Fn(&f64) -> String) -> anyhow::Result<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let last = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let first = points().map(|(x, _)| *x).fold(last, f64::min);
    let highest = points().map(|(_, y)| *y).fold(LEAST_MS * 10.0, f64::max);
    let mut svg = String::new();
    let failed = |err: DrawingAreaErrorKind<_>| anyhow!("{err}");
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(38)
            .y_label_area_size(58)
            .build_cartesian_2d(first..last, (LEAST_MS..highest * 1.3).log_scale())
            .map_err(failed)?;
        let mesh = chart.configure_mesh();
        { mesh }.x_desc(x).y_desc("ms").x_label_formatter(label).light_line_style(WHITE).draw().map_err(failed)?;
        for (Curve { name, points }, color) in curves.iter().zip(COLORS.into_iter().cycle()) {
            let points = points.iter().map(|(x, y)| (*x, y.max(LEAST_MS)));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))
                .map_err(failed)?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        let legend = chart.configure_series_labels();
        { legend }
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}
