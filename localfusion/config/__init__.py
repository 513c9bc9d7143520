"""Configuration: the only reader of YAML and of the environment. It knows names and settings, never a model's file."""

from localfusion.config.catalogue import DEFAULT, MACHINE_FOLDER, chosen_preset, load_models, read_models
from localfusion.config.located import Located, YamlValue, read_yaml
from localfusion.config.models_file import (
    Contents,
    Extension,
    HubEntry,
    JudgeEntry,
    ModelEntry,
    ModelsFile,
    PresetEntry,
    ProviderEntry,
    SeatEntry,
    ToolsEntry,
)
from localfusion.config.models_file import load as load_models_file
from localfusion.config.notes import check_note, choose_preset, forget_note, note, note_path
from localfusion.config.settings import SettingsFile
from localfusion.config.settings import load as load_settings
from localfusion.config.surroundings import (
    Surroundings,
    check_hub_variables,
    find_models_file,
    home_directory,
    make_home,
    set_hub_offline,
)

__all__ = [
    "DEFAULT",
    "MACHINE_FOLDER",
    "Contents",
    "Extension",
    "HubEntry",
    "JudgeEntry",
    "Located",
    "ModelEntry",
    "ModelsFile",
    "PresetEntry",
    "ProviderEntry",
    "SeatEntry",
    "SettingsFile",
    "Surroundings",
    "ToolsEntry",
    "YamlValue",
    "check_hub_variables",
    "check_note",
    "choose_preset",
    "chosen_preset",
    "find_models_file",
    "forget_note",
    "home_directory",
    "load_models",
    "load_models_file",
    "load_settings",
    "make_home",
    "note",
    "note_path",
    "read_models",
    "read_yaml",
    "set_hub_offline",
]
