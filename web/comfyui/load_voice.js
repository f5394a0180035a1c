// The browser gives an upload button to every node with an audio_upload input, but the player that the button needs to
// its own nodes only; without a player it fails and leaves our node broken. So the player is added here, before it.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "Sonic.LoadVoice",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== "SONIC_LoadVoice") return;
    const { audio, upload, ...others } = nodeData.input.required;
    nodeData.input.required = {
      audio,
      audioUI: ["AUDIO_UI", {}],
      ...others,
      upload: upload ?? ["AUDIOUPLOAD", {}],
    };
  },
});
