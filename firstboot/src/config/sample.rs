//! The sample `node.toml`: every key with a word about it. It is valid but for its secret, which is refused.

/// A commented `node.toml` to begin with.
pub const SAMPLE: &str = include_str!("sample.toml");

#[cfg(test)]
mod tests {
    use crate::config::{Document, Format, SAMPLE_SECRET, check};

    #[test]
    fn the_sample_is_right_but_for_its_secret() {
        let refused = |text: &str| {
            check(&[Document { name: "sample".into(), format: Format::NodeToml, bytes: text.as_bytes().to_vec() }])
        };
        let error = refused(super::SAMPLE).unwrap_err();
        assert!(error.problems.iter().all(|problem| problem.key == "join.secret"), "{error}");
        assert!(super::SAMPLE.contains(SAMPLE_SECRET));
        let filled = super::SAMPLE.replace(SAMPLE_SECRET, "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=");
        let checked = refused(&filled).unwrap();
        assert_eq!(checked.machines.len(), 2);
        assert!(checked.warnings.is_empty());
    }
}
