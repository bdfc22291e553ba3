//! Parses YAML and JSON, with the line of each field.
//!
//! Scalars resolve as in `kubectl`: `yes` is true, `0777` is octal. Parsing continues after an invalid document.

mod scalar;

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{Event, Options, Parser, ScanError, Span, StrInput, Tag};

use crate::convert::json::join_path;

/// Maximum nesting of lists and maps. The parser is recursive.
const MAX_DEPTH: usize = 64;
/// Maximum number of values that the aliases of one document copy. It bounds the memory that a small file can use.
const MAX_ALIASED_VALUES: usize = 100_000;

/// A document of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// The content.
    pub(crate) value: Value,
    /// The lines of the fields.
    pub(crate) lines: FieldLines,
}

/// The lines of the fields of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldLines {
    first: usize,
    fields: BTreeMap<String, usize>,
}

/// A syntax error of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct YamlError {
    /// The line number. The first line is 1.
    pub(crate) line: usize,
    /// The error, on one line.
    pub(crate) message: String,
}

impl FieldLines {
    /// Returns the line of a field such as `spec.roles[0].name`, or of its nearest parent in the document.
    #[must_use]
    pub(crate) fn line_of(&self, field: &str) -> usize {
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

/// Parses all documents of a text. Empty documents are left out.
#[must_use]
pub(crate) fn parse(text: &str) -> (Vec<Document>, Vec<YamlError>) {
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    let mut reader = YamlReader::new(text);
    loop {
        match reader.next_document() {
            Ok(Some(document)) if document.value.is_null() => {}
            Ok(Some(document)) => documents.push(document),
            Ok(None) => break,
            Err(error) => {
                errors.push(error);
                match reader.parser.proceed_next_document() {
                    Ok(true) => {}
                    Ok(false) | Err(_) => break,
                }
            }
        }
    }
    (documents, errors)
}

struct YamlReader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    lines: FieldLines,
    anchors: BTreeMap<usize, Value>,
    aliased_values: usize,
}

impl<'t> YamlReader<'t> {
    fn new(text: &'t str) -> Self {
        let mut options = Options::default();
        options.set_emit_comments(false);
        let parser = Parser::new_from_str_with_options(text, options);
        Self { parser, lines: FieldLines::default(), anchors: BTreeMap::new(), aliased_values: 0 }
    }

    /// Parses the next document. Returns `None` after the last one.
    fn next_document(&mut self) -> Result<Option<Document>, YamlError> {
        loop {
            match self.next_event()? {
                None => return Ok(None),
                Some((Event::DocumentStart(..), _)) => break,
                Some(_) => {}
            }
        }
        (self.anchors, self.aliased_values) = (BTreeMap::new(), 0);
        let Some((event, span)) = self.next_event()? else { return Ok(None) };
        self.lines = FieldLines { first: span.start.line(), fields: BTreeMap::new() };
        let value = self.node(event, span, "", MAX_DEPTH)?;
        Ok(Some(Document { value, lines: std::mem::take(&mut self.lines) }))
    }

    fn next_event(&mut self) -> Result<Option<(Event<'t>, Span)>, YamlError> {
        self.parser.next_event().transpose().map_err(|error| syntax_error(&error))
    }

    fn require_event(&mut self) -> Result<(Event<'t>, Span), YamlError> {
        let unexpected_end = || YamlError { line: 1, message: "unexpected end of the document".to_owned() };
        self.next_event()?.ok_or_else(unexpected_end)
    }

    fn node(&mut self, event: Event<'t>, span: Span, path: &str, depth: usize) -> Result<Value, YamlError> {
        let line = span.start.line();
        let Some(depth) = depth.checked_sub(1) else {
            return Err(YamlError {
                line,
                message: format!("lists and maps are nested more than {MAX_DEPTH} levels deep"),
            });
        };
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar::resolve(&text, style, tag.as_deref());
                (value.map_err(|message| YamlError { line, message })?, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), "seq", line)?;
                (self.list(path, depth)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), "map", line)?;
                (self.map(path, depth)?, anchor)
            }
            Event::Alias(anchor) => (self.resolve_alias(anchor, line)?, 0),
            other => return Err(YamlError { line, message: format!("unexpected {other:?}") }),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn list(&mut self, path: &str, depth: usize) -> Result<Value, YamlError> {
        let mut list = Vec::new();
        loop {
            let (event, span) = self.require_event()?;
            if event == Event::SequenceEnd {
                return Ok(Value::Array(list));
            }
            let path = join_path(path, &format!("[{}]", list.len()));
            self.lines.fields.insert(path.clone(), span.start.line());
            list.push(self.node(event, span, &path, depth)?);
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Result<Value, YamlError> {
        let (mut map, mut merged) = (Map::new(), Vec::new());
        loop {
            let (event, span) = self.require_event()?;
            if event == Event::MappingEnd {
                break;
            }
            let line = span.start.line();
            let is_merge = matches!(&event, Event::Scalar(text, style, _, None) if scalar::is_merge_key(text, *style));
            let key = match self.node(event, span, path, depth)? {
                Value::String(key) => key,
                Value::Bool(key) => key.to_string(),
                Value::Number(key) => key.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err(YamlError { line, message: "a key must be a string".to_owned() });
                }
            };
            let field = join_path(path, &key);
            let (event, span) = self.require_event()?;
            if is_merge {
                merged.push((self.node(event, span, path, depth)?, line));
                continue;
            }
            self.lines.fields.insert(field.clone(), line);
            let value = self.node(event, span, &field, depth)?;
            if map.insert(key, value).is_some() {
                return Err(YamlError { line, message: format!("duplicate key {field}") });
            }
        }
        for (value, line) in merged {
            merge(&mut map, value, line)?;
        }
        Ok(Value::Object(map))
    }

    fn resolve_alias(&mut self, anchor: usize, line: usize) -> Result<Value, YamlError> {
        let Some(value) = self.anchors.get(&anchor) else {
            return Err(YamlError { line, message: "an alias must not be inside its own anchor".to_owned() });
        };
        self.aliased_values += count_values(value);
        if self.aliased_values > MAX_ALIASED_VALUES {
            return Err(YamlError { line, message: "the aliases of the document are too large".to_owned() });
        }
        Ok(value.clone())
    }
}

/// Adds the values of a merge key (`<<`). Keys that the map has already are kept.
fn merge(map: &mut Map<String, Value>, value: Value, line: usize) -> Result<(), YamlError> {
    match value {
        Value::Object(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(list) => list.into_iter().try_for_each(|value| match value {
            Value::Object(_) => merge(map, value, line),
            _ => Err(YamlError { line, message: "<< must be a list of maps".to_owned() }),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(YamlError { line, message: "<< must be a map or a list of maps".to_owned() })
        }
    }
}

fn count_values(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
        Value::Array(list) => 1 + list.iter().map(count_values).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(count_values).sum::<usize>(),
    }
}

fn check_tag(tag: Option<&Tag>, expected: &str, line: usize) -> Result<(), YamlError> {
    match tag {
        None => Ok(()),
        Some(tag) if tag.core_suffix() == Some(expected) => Ok(()),
        Some(tag) => Err(YamlError { line, message: format!("the tag {} is not allowed here", tag.original()) }),
    }
}

fn syntax_error(error: &ScanError) -> YamlError {
    let message = error.info();
    let message = message.lines().next().unwrap_or_default();
    YamlError { line: error.marker().line(), message: format!("invalid YAML: {message}") }
}

#[cfg(test)]
mod tests;
