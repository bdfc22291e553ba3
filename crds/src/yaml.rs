//! Text to values and lines: YAML as `kubectl` reads it, and for every field the line it stands on.
//!
//! JSON is YAML too. Plain words resolve as Kubernetes' own parser resolves them (`yes` is true, `0777` is octal), so that
//! a file means the same here and there. A document that is wrong does not hide the ones after it.

mod scalar;

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{Event, Options, Parser, ScanError, Span, StrInput, Tag};

/// How deep lists and maps may nest; reading recurses.
const MAX_DEPTH: usize = 64;
/// How many values the aliases of one document may copy, so that a small file cannot become a big one.
const MAX_COPIES: usize = 100_000;

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// What it says.
    pub value: Value,
    /// Where each field stands.
    pub lines: Lines,
}

/// The line of every field of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    first: usize,
    fields: BTreeMap<String, usize>,
}

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, counted from 1.
    pub line: usize,
    /// What is wrong, on one line.
    pub message: String,
}

impl Lines {
    /// The line of a field such as `spec.roles[0].name`, or of the nearest one above it that is there.
    #[must_use]
    pub fn of(&self, field: &str) -> usize {
        let mut field = field;
        loop {
            match (self.fields.get(field), field.rfind(['.', '['])) {
                (Some(line), _) => return *line,
                (None, Some(end)) => field = field.get(..end).unwrap_or_default(),
                (None, None) => return self.first,
            }
        }
    }
}

/// The documents of a text, less the empty ones, and what is wrong with the others.
#[must_use]
pub fn documents(text: &str) -> (Vec<Document>, Vec<Fault>) {
    let (mut documents, mut faults) = (Vec::new(), Vec::new());
    let mut reader = Reader::new(text);
    loop {
        match reader.document() {
            Ok(Some(document)) if document.value.is_null() => {}
            Ok(Some(document)) => documents.push(document),
            Ok(None) => break,
            Err(fault) => {
                faults.push(fault);
                match reader.parser.proceed_next_document() {
                    Ok(true) => {}
                    Ok(false) | Err(_) => break,
                }
            }
        }
    }
    (documents, faults)
}

/// The path of a field below another.
#[must_use]
pub(crate) fn join(above: &str, field: &str) -> String {
    match (above, field) {
        ("", only) | (only, "") => only.to_owned(),
        (above, field) if field.starts_with('[') => format!("{above}{field}"),
        (above, field) => format!("{above}.{field}"),
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    lines: Lines,
    anchors: BTreeMap<usize, Value>,
    copies: usize,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        let mut options = Options::default();
        options.set_emit_comments(false);
        let parser = Parser::new_from_str_with_options(text, options);
        Self { parser, lines: Lines::default(), anchors: BTreeMap::new(), copies: 0 }
    }

    /// The next document, or `None` after the last.
    fn document(&mut self) -> Result<Option<Document>, Fault> {
        loop {
            match self.event()? {
                None => return Ok(None),
                Some((Event::DocumentStart(..), _)) => break,
                Some(_) => {}
            }
        }
        (self.anchors, self.copies) = (BTreeMap::new(), 0);
        let Some((event, span)) = self.event()? else { return Ok(None) };
        self.lines = Lines { first: span.start.line(), fields: BTreeMap::new() };
        let value = self.node(event, span, "", MAX_DEPTH)?;
        Ok(Some(Document { value, lines: std::mem::take(&mut self.lines) }))
    }

    fn event(&mut self) -> Result<Option<(Event<'t>, Span)>, Fault> {
        self.parser.next_event().transpose().map_err(|error| not_yaml(&error))
    }

    fn must(&mut self) -> Result<(Event<'t>, Span), Fault> {
        let ended = || Fault { line: 1, message: "the document ends too soon".to_owned() };
        self.event()?.ok_or_else(ended)
    }

    fn node(&mut self, event: Event<'t>, span: Span, path: &str, depth: usize) -> Result<Value, Fault> {
        let line = span.start.line();
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Fault { line, message: format!("nests more than {MAX_DEPTH} deep") });
        };
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar::resolve(&text, style, tag.as_deref());
                (value.map_err(|message| Fault { line, message })?, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                expect_tag(tag.as_deref(), "seq", line)?;
                (self.list(path, depth)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                expect_tag(tag.as_deref(), "map", line)?;
                (self.map(path, depth)?, anchor)
            }
            Event::Alias(anchor) => (self.copy(anchor, line)?, 0),
            other => return Err(Fault { line, message: format!("cannot read {other:?} here") }),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn list(&mut self, path: &str, depth: usize) -> Result<Value, Fault> {
        let mut list = Vec::new();
        loop {
            let (event, span) = self.must()?;
            if event == Event::SequenceEnd {
                return Ok(Value::Array(list));
            }
            let path = join(path, &format!("[{}]", list.len()));
            self.lines.fields.insert(path.clone(), span.start.line());
            list.push(self.node(event, span, &path, depth)?);
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Result<Value, Fault> {
        let (mut map, mut merged) = (Map::new(), Vec::new());
        loop {
            let (event, span) = self.must()?;
            if event == Event::MappingEnd {
                break;
            }
            let line = span.start.line();
            let is_merge = matches!(&event, Event::Scalar(text, style, _, None) if scalar::is_merge(text, *style));
            let key = match self.node(event, span, path, depth)? {
                Value::String(key) => key,
                Value::Bool(key) => key.to_string(),
                Value::Number(key) => key.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err(Fault { line, message: "a key must be text".to_owned() });
                }
            };
            let field = join(path, &key);
            let (event, span) = self.must()?;
            if is_merge {
                merged.push((self.node(event, span, path, depth)?, line));
                continue;
            }
            self.lines.fields.insert(field.clone(), line);
            let value = self.node(event, span, &field, depth)?;
            if map.insert(key, value).is_some() {
                return Err(Fault { line, message: format!("the key {field} is there twice") });
            }
        }
        for (value, line) in merged {
            merge(&mut map, value, line)?;
        }
        Ok(Value::Object(map))
    }

    fn copy(&mut self, anchor: usize, line: usize) -> Result<Value, Fault> {
        let Some(value) = self.anchors.get(&anchor) else {
            return Err(Fault { line, message: "an alias must not stand in what it stands for".to_owned() });
        };
        self.copies += size(value);
        if self.copies > MAX_COPIES {
            return Err(Fault { line, message: "the aliases copy too much".to_owned() });
        }
        Ok(value.clone())
    }
}

/// Adds what the keys `<<` stand for; what is there already stays.
fn merge(map: &mut Map<String, Value>, value: Value, line: usize) -> Result<(), Fault> {
    match value {
        Value::Object(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(list) => list.into_iter().try_for_each(|value| match value {
            Value::Object(_) => merge(map, value, line),
            _ => Err(Fault { line, message: "<< must stand for maps".to_owned() }),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(Fault { line, message: "<< must stand for a map or a list of maps".to_owned() })
        }
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
        Value::Array(list) => 1 + list.iter().map(size).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(size).sum::<usize>(),
    }
}

fn expect_tag(tag: Option<&Tag>, wanted: &str, line: usize) -> Result<(), Fault> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.core_suffix() == Some(wanted) => Ok(()),
        Some(tag) => Err(Fault { line, message: format!("the tag {} does not fit here", tag.original()) }),
    }
}

fn not_yaml(error: &ScanError) -> Fault {
    let message = error.info();
    let message = message.lines().next().unwrap_or_default();
    Fault { line: error.marker().line(), message: format!("is not YAML: {message}") }
}

#[cfg(test)]
mod tests;
