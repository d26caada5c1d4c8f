"""Where keys come from. Static ones: files of SAs in wesper's TOML form and in Wireshark's `esp_sa` form.

>>> from wesper.keying import parse_keys, write_esp_sa
>>> text = '''
... [[sa]]
... spi = 0x1000
... suite = "aes-gcm-16"
... key = "000102030405060708090a0b0c0d0e0f"
... salt = "a0a1a2a3"
... local = "192.0.2.1"
... remote = "192.0.2.2"
... esn = false
... '''
>>> sas = parse_keys(text, "toml", "office.toml")
>>> sas[0]
StaticSA(suite='aes-gcm-16', spi=4096, mode=Mode.TUNNEL)
>>> _, line = write_esp_sa(sas)[0].splitlines()
>>> line.split(",")[:5]
['"IPv4"', '"192.0.2.1"', '"192.0.2.2"', '"0x00001000"', '"AES-GCM with 16 octet ICV [RFC4106]"']
"""

from .esp_sa import read_esp_sa, write_esp_sa
from .key_file import (
    FORMATS,
    KeyFormat,
    files_with_keys,
    format_of,
    load_all_keys,
    load_keys,
    load_psp_keys,
    parse_keys,
    save_keys,
    save_private,
)
from .psp import PSPAssociation, PSPDevice, PSPKeys
from .psp_toml import write_received
from .static import Encapsulated, StaticSA
from .toml_file import read_psp_toml, read_toml, write_toml

__all__ = [
    "FORMATS",
    "Encapsulated",
    "KeyFormat",
    "PSPAssociation",
    "PSPDevice",
    "PSPKeys",
    "StaticSA",
    "format_of",
    "files_with_keys",
    "load_all_keys",
    "load_keys",
    "load_psp_keys",
    "parse_keys",
    "read_esp_sa",
    "read_psp_toml",
    "read_toml",
    "save_keys",
    "save_private",
    "write_esp_sa",
    "write_received",
    "write_toml",
]
