"""Media and model core: picture + sound -> prepared data -> frames -> MP4.

Knows neither ComfyUI's server nor Redis nor HTTP.
"""
