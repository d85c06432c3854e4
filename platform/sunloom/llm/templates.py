"""The chat template of models built here, and the marks it uses."""

from __future__ import annotations

PAD, END = "<|pad|>", "<|end|>"
SYSTEM, TOOLS, USER, ASSISTANT, TOOL = (
    "<|system|>",
    "<|tools|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
)
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"

# Each tool is one line whatever JSON schema the client sends, so prompts stay short. A mark that
# stands in someone's text is broken up: it must not be read as a turn.
CHAT_TEMPLATE = """\
{%- macro plain(text) -%}
{{- text | trim | replace('<|', '< |') | replace('<tool_call>', '< tool_call>') -}}
{%- endmacro -%}
{%- for message in messages if message['role'] == 'system' -%}
{{- '<|system|>' -}}{{- plain(message['content']) -}}{{- '<|end|>' -}}
{%- endfor -%}
{%- if tools -%}
{{- '<|tools|>' -}}
{%- for tool in tools -%}
{%- set f = tool['function'] if 'function' in tool else tool -%}
{{- plain(f['name']) -}}{{- '(' -}}
{%- set parameters = f.get('parameters') or {} -%}
{%- for key, value in (parameters.get('properties') or {}).items() -%}
{{- plain(key) -}}{{- ': ' -}}{{- value.get('type', 'any') -}}{{- '' if loop.last else ', ' -}}
{%- endfor -%}
{{- ')' -}}{{- '' if loop.last else '\\n' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endif -%}
{%- for message in messages if message['role'] != 'system' -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- if message['content'] -%}{{- plain(message['content']) -}}{%- endif -%}
{%- for call in message.get('tool_calls') or [] -%}
{%- set f = call['function'] -%}
{{- '<tool_call>{"name": "' -}}{{- f['name'] -}}{{- '", "arguments": ' -}}
{{- f['arguments'] if f['arguments'] is string else f['arguments'] | tojson -}}
{{- '}</tool_call>' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- elif message['role'] == 'tool' -%}
{{- '<|tool|>' -}}{{- plain(message['content']) -}}{{- '<|end|>' -}}
{%- else -%}
{{- '<|user|>' -}}{{- plain(message['content']) -}}{{- '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
