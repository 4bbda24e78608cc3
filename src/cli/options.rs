//! Flags that commands share.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde_json::{Map, Value};
use sftmix::{BadRows, DataFormat, DataOptions};

/// How rows become examples.
#[derive(clap::Args, Clone, Debug, Default, Serialize)]
#[command(next_help_heading = "Rows")]
pub struct DataFlags {
    /// Shape of the rows [default: that of the first row]
    #[arg(long, value_name = "FORMAT", value_parser = one_of::<DataFormat>(DataFormat::NAMES))]
    pub data_format: Option<DataFormat>,
    /// Column of the prompt, with --response-field [default: that of the shape]
    #[arg(long, value_name = "COLUMN")]
    pub prompt_field: Option<String>,
    /// Column of the response, with --prompt-field or --prompt-template [default: that of the shape]
    #[arg(long, value_name = "COLUMN")]
    pub response_field: Option<String>,
    /// Column of the text, all of it trained [default: text]
    #[arg(long, value_name = "COLUMN")]
    pub text_field: Option<String>,
    /// The prompt, with {column} in place of values [default: that of the shape]
    #[arg(long, value_name = "TEMPLATE")]
    pub prompt_template: Option<String>,
    /// Column of the turns of a conversation [default: messages or conversations]
    #[arg(long, value_name = "COLUMN")]
    pub messages_field: Option<String>,
    /// Chat template that conversations are written with [default: the model's own]
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// Further variables of the chat template, as {"enable_thinking": false} [default: none]
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Keys and roles of conversations that the template may leave out, as reasoning_content [default: none]
    #[arg(long, value_name = "KEY,…", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_drops: Option<Vec<String>>,
    /// What becomes of a row that is no example: error ends the run, skip counts it by reason (at most 5 % of a file)
    #[arg(long, value_name = "HOW", value_parser = one_of::<BadRows>(BadRows::NAMES))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_rows: Option<BadRows>,
}

impl From<DataFlags> for DataOptions {
    fn from(f: DataFlags) -> DataOptions {
        DataOptions {
            data_format: f.data_format,
            prompt_field: f.prompt_field,
            response_field: f.response_field,
            text_field: f.text_field,
            prompt_template: f.prompt_template,
            messages_field: f.messages_field,
            chat_template: f.chat_template,
            chat_template_kwargs: f.chat_template_kwargs,
            template_drops: f.template_drops.unwrap_or_default(),
            bad_rows: f.bad_rows.unwrap_or(DataOptions::default().bad_rows),
        }
    }
}

/// Parser of a setting with a fixed list of values, which the help and the error name.
pub fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|s| s.parse::<T>())
}

/// Parser of a number; JSON, in which settings are handed on, has none that is not finite.
pub fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err(format!("expected a number, found {text:?}")),
    }
}

/// Parser of a JSON object.
pub fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|e| format!("expected a JSON object: {e}"))
}

/// Parser of β₁,β₂.
pub fn betas(text: &str) -> Result<(f64, f64), String> {
    let bad = || format!("expected two numbers as 0.9,0.999, found {text:?}");
    let (a, b) = text.split_once(',').ok_or_else(bad)?;
    let part = |s: &str| number(s).map_err(|_| bad());
    Ok((part(a)?, part(b)?))
}
