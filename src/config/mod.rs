//! `config.yaml`: types, defaults, validation.
