//! Colours and emphasis by meaning. Every meaning differs by more than its colour, so that all of it can be
//! read without any.

use ratatui::style::{Color, Modifier, Style};

/// How many colours may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colors {
    /// The sixteen that every terminal has, in the shades that its owner chose.
    #[default]
    #[value(name = "16")]
    Sixteen,
    /// None: bold, dim and reversed text only.
    #[value(name = "none")]
    None,
}

impl Colors {
    /// What is used when nothing is asked for: none if `NO_COLOR` is set to anything but the empty string.
    pub fn from_environment() -> Self {
        match std::env::var_os("NO_COLOR") {
            Some(value) if !value.is_empty() => Self::None,
            _ => Self::Sixteen,
        }
    }
}

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Ordinary figures.
    Plain,
    /// Names of figures, axes, what is of less weight.
    Label,
    /// Headings and what stands out.
    Strong,
    /// Lock holder preemption.
    Lhp,
    /// Lock waiter preemption.
    Lwp,
    /// Harmful ones of them.
    Harmful,
    /// Something is as it should be.
    Good,
    /// Something was lost or is incomplete.
    Warning,
    /// Something is wrong: a defect, a lost connection.
    Bad,
    /// A ratio to the baseline.
    Ratio,
    /// The critical section duration estimate.
    Csd,
    /// Bars of histograms and held locks.
    Bar,
    /// The selected row.
    Selected,
    /// Frame of the panel that has the keys.
    Focus,
    /// Frame of another panel.
    Frame,
}

/// Turns meanings into styles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Theme {
    /// How many colours may be used.
    pub colors: Colors,
}

impl Theme {
    /// The style of `role`.
    pub fn style(self, role: Role) -> Style {
        let plain = Style::new();
        let (color, style) = match role {
            Role::Plain => (None, plain),
            Role::Label => (None, plain.add_modifier(Modifier::DIM)),
            Role::Strong => (None, plain.add_modifier(Modifier::BOLD)),
            Role::Lhp => (Some(Color::Red), plain),
            Role::Lwp => (Some(Color::Yellow), plain),
            Role::Harmful => (Some(Color::Magenta), plain),
            Role::Good => (Some(Color::Green), plain),
            Role::Warning => (Some(Color::Yellow), plain.add_modifier(Modifier::BOLD)),
            Role::Bad => (Some(Color::Red), plain.add_modifier(Modifier::BOLD | Modifier::REVERSED)),
            Role::Ratio => (Some(Color::Cyan), plain),
            Role::Csd => (Some(Color::Cyan), plain),
            Role::Bar => (Some(Color::Blue), plain),
            // One colour for the whole row, whatever stands in it.
            Role::Selected => (
                Some(Color::Reset),
                plain.add_modifier(Modifier::REVERSED).remove_modifier(Modifier::DIM | Modifier::BOLD),
            ),
            Role::Focus => (Some(Color::Cyan), plain.add_modifier(Modifier::BOLD)),
            Role::Frame => (None, plain.add_modifier(Modifier::DIM)),
        };
        match (self.colors, color) {
            (Colors::Sixteen, Some(color)) => style.fg(color),
            _ => style,
        }
    }
}
