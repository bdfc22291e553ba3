//! Reads the Markdown pages of the repository: fenced blocks, prose and tables. Only tests use it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a page that cannot be read fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_directory.ancestors().find(|directory| directory.join("Cargo.lock").exists()).unwrap().to_path_buf()
}

/// One Markdown page.
pub struct Page {
    /// The path below the root, such as `docs/dev.md`.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// One fenced block.
pub struct Block {
    /// Page and line of the opening fence.
    pub place: String,
    /// The first word of the info string, such as `sh`.
    pub language: String,
    /// The rest of the info string, such as `run`.
    pub label: String,
    /// The lines between the fences.
    pub text: String,
    /// The text of the page above the block.
    pub above: String,
}

/// Reads README.md, the other pages in the root, and docs/.
pub fn pages() -> Vec<Page> {
    let mut paths = Vec::new();
    for dir in ["", "docs"] {
        for entry in fs::read_dir(root().join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                paths.push(if dir.is_empty() { name } else { format!("{dir}/{name}") });
            }
        }
    }
    paths.sort();
    paths.into_iter().map(|path| page(&path)).collect()
}

/// Reads one page.
pub fn page(path: &str) -> Page {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    Page { path: path.to_owned(), text }
}

impl Page {
    /// Returns the fenced blocks. The indentation of a block in a list is removed.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines().zip(1..);
        let mut above = String::new();
        while let Some((line, number)) = lines.next() {
            let Some(info) = line.trim_start().strip_prefix("```") else {
                above.push_str(line);
                above.push('\n');
                continue;
            };
            let indentation = line.len() - line.trim_start().len();
            let mut text = String::new();
            for (line, _) in lines.by_ref() {
                if line.trim_start().starts_with("```") {
                    break;
                }
                text.push_str(line.get(indentation..).unwrap_or_default());
                text.push('\n');
            }
            let (language, label) = info.split_once(' ').unwrap_or((info, ""));
            let place = format!("{}:{number}", self.path);
            let (language, label) = (language.to_owned(), label.trim().to_owned());
            blocks.push(Block { place, language, label, text, above: above.clone() });
        }
        blocks
    }

    /// Returns the page without its fenced blocks.
    pub fn prose(&self) -> String {
        let mut inside = false;
        let mut prose = String::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        prose
    }

    /// Returns the cells of all table rows below a heading, up to the next heading of any level.
    pub fn rows(&self, heading: &str) -> Vec<Vec<String>> {
        let prose = self.prose();
        let below =
            prose.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading || !line.starts_with('#'));
        let section = below.skip(1).take_while(|line| !line.starts_with('#'));
        let mut rows = Vec::new();
        let mut is_header = true;
        for line in section {
            if !line.starts_with('|') {
                is_header = true;
            } else if line.starts_with("| ---") {
                is_header = false;
            } else if !is_header {
                rows.push(line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect());
            }
        }
        assert!(!rows.is_empty(), "{}: no table below the heading {heading:?}", self.path);
        rows
    }
}

/// Returns the texts between backticks.
pub fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}
