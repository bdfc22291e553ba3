//! Decodes a watch stream: one JSON event per line, in frames of any size.

use podmeta_agent_api::{MAX_LINE_BYTES, WatchEvent};

use crate::operator_client::OperatorError;

/// Collects frames and returns the events of complete lines.
#[derive(Debug, Default)]
pub(super) struct EventDecoder {
    incomplete: Vec<u8>,
}

impl EventDecoder {
    /// Adds a frame. Returns the events of all lines that are complete now.
    ///
    /// # Errors
    /// If a line is not an event or too long. The stream cannot be continued, because the event may be a deletion.
    pub(super) fn push(&mut self, frame: &[u8]) -> Result<Vec<WatchEvent>, OperatorError> {
        let complete = frame.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let (complete, rest) = frame.split_at_checked(complete).unwrap_or_default();
        if complete.is_empty() {
            self.incomplete.extend_from_slice(rest);
            return check_length(&self.incomplete).map(|()| Vec::new());
        }
        let mut lines = std::mem::replace(&mut self.incomplete, rest.to_vec());
        lines.extend_from_slice(complete);
        lines.split(|byte| *byte == b'\n').try_for_each(check_length)?;
        let events = serde_json::Deserializer::from_slice(&lines).into_iter().collect::<Result<Vec<_>, _>>();
        events.map_err(|error| OperatorError::invalid_json(&error))
    }
}

fn check_length(line: &[u8]) -> Result<(), OperatorError> {
    if line.len() > MAX_LINE_BYTES {
        return Err(OperatorError::InvalidResponse(format!(
            "a line of the watch is longer than {MAX_LINE_BYTES} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKMARKS: &[u8] =
        b"{\"resourceVersion\":\"e1:1\",\"type\":\"BOOKMARK\"}\n{\"resourceVersion\":\"e1:2\",\"type\":\"BOOKMARK\"}\n";

    #[test]
    fn events_are_decoded_from_frames_of_any_size() {
        for size in [1, 7, 50, BOOKMARKS.len()] {
            let mut decoder = EventDecoder::default();
            let events = BOOKMARKS.chunks(size).flat_map(|frame| decoder.push(frame).unwrap()).collect::<Vec<_>>();
            let versions = events.iter().map(|event| event.resource_version.to_string()).collect::<Vec<_>>();
            assert_eq!(versions, ["e1:1", "e1:2"], "frames of {size} bytes");
        }
    }

    #[test]
    fn line_that_is_not_an_event_is_an_error() {
        for line in [&b"{\n"[..], b"{\"resourceVersion\":\"e1:1\",\"type\":\"OTHER\"}\n"] {
            assert!(matches!(EventDecoder::default().push(line), Err(OperatorError::InvalidResponse(_))));
        }
    }

    #[test]
    fn error_of_an_invalid_line_does_not_contain_its_values() {
        let line = br#"{"resourceVersion":"e1:1","type":"s3cret"}
"#;
        let error = EventDecoder::default().push(line).unwrap_err().to_string();
        assert!(error.contains("line 1, column") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn line_longer_than_the_limit_is_an_error() {
        let mut decoder = EventDecoder::default();
        assert!(decoder.push(&vec![b' '; MAX_LINE_BYTES]).unwrap().is_empty());
        assert!(decoder.push(b" ").is_err());
        let mut complete = vec![b' '; MAX_LINE_BYTES + 1];
        complete.push(b'\n');
        assert!(EventDecoder::default().push(&complete).is_err());
    }
}
