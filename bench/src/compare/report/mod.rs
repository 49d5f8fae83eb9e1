//! What is made of a comparison: a page with plots, and a table for the README.
//!
//! Reading order: [`figures`] the numbers that are shown, [`table`] as Markdown, [`plots`] as SVG, [`page`] all of it.

pub mod figures;
pub mod page;
pub mod plots;
pub mod table;
