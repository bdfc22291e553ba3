//! A search for expressions with a high score. Also used by the benchmark.

use podmeta_metadata::cel::MAX_BYTES;

/// Number of generated expressions of a search.
const ROUNDS: usize = 1000;

/// Generates expressions, repeatably.
struct Generator(u64);

impl Generator {
    /// Returns a number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn choose<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }

    fn leaf(&mut self) -> String {
        let leaf = self.choose(&[
            "pod",
            "pod.metadata",
            "pod.metadata.labels",
            "pod.metadata.annotations",
            "pod.spec",
            "pod.spec.tolerations",
            "pod.spec.image",
            "namespaceObject",
            "namespaceObject.metadata.annotations",
            "node",
            "node.metadata.labels",
            "node.spec.taints",
            "pod.metadata.annotations['a0']",
            "pod.metadata.annotations.a1",
            "pod.metadata.name",
            "x",
            "x",
            "x",
            "1",
            "1.5e300",
            "-9223372036854775808",
            "5e-324",
            "true",
            "null",
            "'\\u0001'",
            "b'\\xff'",
            "[]",
            "{}",
            "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'",
            "has(pod.metadata.labels.a0)",
        ]);
        leaf.to_owned()
    }

    fn expression(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.leaf();
        }
        let one = self.expression(depth - 1);
        match self.below(15) {
            0 | 1 => self.repeat(&one, ", ", "[", "]"),
            2 => self.repeat(&one, " + ", "", ""),
            3 => format!("{{'a': {one}, 'b': {}}}", self.expression(depth - 1)),
            4 => format!("{{{one}: {}}}", self.leaf()),
            5 | 6 => {
                let operator = self.choose(&["+", "==", "!=", "<", "in", "&&", "||", "-", "*", "/", "%"]);
                format!("({one} {operator} {})", self.expression(depth - 1))
            }
            7 => format!("({} ? {one} : {})", self.leaf(), self.leaf()),
            8 => format!("{one}[{}]", self.leaf()),
            9 => format!("{one}.metadata"),
            10 => {
                let function =
                    self.choose(&["size", "string", "int", "uint", "double", "bool", "bytes", "dyn", "type"]);
                format!("{function}({one})")
            }
            11 => {
                let function = self.choose(&["contains", "startsWith", "endsWith", "size", "value", "nothing"]);
                format!("{one}.{function}({})", self.leaf())
            }
            12 => self.repeat(&one, " || ", "", ""),
            _ => {
                let name = self.choose(&["map", "filter", "all", "exists", "exists_one"]);
                let range = self.leaf();
                format!("{range}.{name}(x, {one})")
            }
        }
    }

    /// Repeats a text up to the maximum length of an expression.
    fn repeat(&mut self, text: &str, separator: &str, before: &str, after: &str) -> String {
        let most = (MAX_BYTES - 2) / (text.len() + separator.len());
        let count = if self.below(2) == 0 { most } else { 1 + self.below(4) };
        format!("{before}{}{after}", vec![text; count.max(1)].join(separator))
    }

    /// Makes an expression more expensive.
    fn grow(&mut self, source: &str) -> String {
        let range = self.choose(&["pod.metadata.labels", "node.spec.taints", "[1,2,3]", "pod.metadata.annotations"]);
        match self.below(7) {
            0 => self.repeat(source, ",", "[", "]"),
            1 => self.repeat(source, "+", "", ""),
            2 => format!("{range}.map(x,{source})"),
            3 => format!("{range}.all(x,{source}=={source})"),
            4 => format!("{range}.exists(x,string({source})=='')"),
            5 => format!("({source}) + ({source})"),
            _ => source.replacen(self.choose(&["1", "x", "true", "null", "pod"]), &self.expression(1), 1),
        }
    }
}

/// Returns the 24 expressions with the highest score. `score` returns `None` for an expression that is not accepted.
pub(crate) fn search(mut score: impl FnMut(&str) -> Option<u64>) -> Vec<String> {
    let mut generator = Generator(0x9e37_79b9_7f4a_7c15);
    let mut best: Vec<(u64, String)> = Vec::new();
    for round in 0..ROUNDS {
        let depth = 1 + round % 4;
        let source = if best.is_empty() || generator.below(3) == 0 {
            generator.expression(depth)
        } else {
            let chosen = generator.below(best.len());
            generator.grow(&best[chosen].1)
        };
        let source = source.trim().to_owned();
        if let Some(score) = score(&source)
            && !best.iter().any(|(_, known)| *known == source)
        {
            best.push((score, source));
            best.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
            best.truncate(24);
        }
    }
    best.into_iter().map(|(_, source)| source).collect()
}
