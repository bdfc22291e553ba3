//! Seed inputs of the fuzz targets, from the conformance cases and the examples.

use std::path::Path;

use anyhow::{Context as _, Result};

use podmeta_metadata::session::TOKEN_LENGTH;

use super::target::{OBJECTS, TOKEN};
use crate::conformance::{cases_dir, read_all};

/// Returns the requests of the conformance cases. Requests given by a request line get a token.
///
/// # Errors
/// If the cases cannot be read.
pub fn requests() -> Result<Vec<Vec<u8>>> {
    let mut seeds = Vec::new();
    for found in read_all(&cases_dir())? {
        for step in &found.case?.steps {
            let header = match step.dialect.unwrap_or(found.dialect) {
                podmeta_metadata::dialect::Dialect::Ec2 => "X-aws-ec2-metadata-token",
                podmeta_metadata::dialect::Dialect::Ecs => "X-aliyun-ecs-metadata-token",
            };
            if let Some(raw) = &step.raw {
                seeds.push(raw.clone().into_bytes());
            }
            if let Some(line) = &step.send {
                let headers = step.headers.iter().map(|header| format!("{header}\r\n")).collect::<String>();
                let text = format!("{line} HTTP/1.1\r\nHost: 169.254.169.254\r\n{headers}{header}: {TOKEN}\r\n\r\n");
                seeds.push(text.into_bytes());
            }
        }
    }
    seeds.sort();
    seeds.dedup();
    Ok(seeds)
}

/// Returns the paths of [`requests`].
///
/// # Errors
/// If the cases cannot be read.
pub fn paths() -> Result<Vec<Vec<u8>>> {
    let path = |request: Vec<u8>| request.split(|byte| *byte == b' ').nth(1).map(<[u8]>::to_vec);
    let mut paths = requests()?.into_iter().filter_map(path).collect::<Vec<_>>();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Returns a valid token and invalid ones.
#[must_use]
pub fn tokens() -> Vec<Vec<u8>> {
    let zeros = "A".repeat(TOKEN_LENGTH);
    let jwt = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6IjAwIn0.e30.AAAA";
    let (twice, padded) = (format!("{TOKEN}{TOKEN}"), format!("{TOKEN}="));
    [TOKEN, &zeros, jwt, "", &twice, &padded].map(|text| text.as_bytes().to_vec()).to_vec()
}

/// Returns the manifests of the cases and the examples: each file and each of its documents.
///
/// # Errors
/// If an example cannot be read.
pub fn objects() -> Result<Vec<Vec<u8>>> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files = vec![OBJECTS.to_owned()];
    for entry in std::fs::read_dir(&examples).with_context(|| format!("cannot read {}", examples.display()))? {
        files.push(std::fs::read_to_string(entry?.path())?);
    }
    let documents = files.iter().flat_map(|file| file.split("\n---\n")).map(str::to_owned).collect::<Vec<_>>();
    Ok(files.into_iter().chain(documents).map(String::into_bytes).collect())
}

/// Returns CEL expressions of the examples, the cases and the documentation, and some close to a limit.
///
/// # Errors
/// If an example cannot be read.
pub fn expressions() -> Result<Vec<Vec<u8>>> {
    let mut expressions = [
        "pod.metadata.name",
        "pod.metadata.labels['app']",
        "has(pod.metadata.annotations.x) ? pod.metadata.annotations.x : 'none'",
        "node.metadata.labels['topology.kubernetes.io/zone'].split('-')[0]",
        "pod.metadata.labels.map(key, key + '=' + pod.metadata.labels[key])",
        "[1, 2, 3].filter(x, x > 1).exists(x, x == 2) && size('abc') == 3",
        "int('12') * 3 / 2 % 5 - 1 == 2 || !true",
        "timestamp('2026-01-05T08:00:00Z') < timestamp('2027-01-05T08:00:00Z')",
        "[[[[1]]]].all(x, x.all(y, y.all(z, z.size() > 0)))",
        "namespaceObject.metadata.labels == {'tier': 'production'}",
    ]
    .map(str::to_owned)
    .to_vec();
    for file in objects()? {
        for line in String::from_utf8(file)?.lines() {
            if let Some((_, expression)) = line.split_once("expression:") {
                expressions.push(expression.trim().trim_matches(['"', '\'', '}']).to_owned());
            }
        }
    }
    expressions.sort();
    expressions.dedup();
    Ok(expressions.into_iter().map(String::into_bytes).collect())
}

/// Returns tag keys.
#[must_use]
pub fn tags() -> Vec<Vec<u8>> {
    let texts =
        ["Name", "app.kubernetes.io/name", "aws:cloudformation", "acs:x", "..", ".", "a b", "_index", "ä/ö", "%2e"];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
