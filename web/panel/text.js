// Everything that the page says, in both languages. Errors of jobs and names are shown as they come.

const EN = {
  title: "Sonic queue", skip: "Skip to the content", views: "Views", otherLanguage: "中文", otherLanguageLabel: "切换到中文",
  newVideos: "New videos", close: "Close", cancel: "Cancel", retry: "Start again", drop: "Drop", play: "Play", again: "Try again",
  details: "Details of {name}", dismiss: "Dismiss", back: "Back", more: "Older", newer: "Newer", first: "Newest", all: "All",

  live: "Live", connecting: "Connecting", lost: "Not connected", away: "The queue's database does not answer",
  lostLong: "Not connected to the gateway. What you see may be old. The page keeps trying.",
  awayLong: "The gateway is there, but its queue's database does not answer. What you see may be old.",
  unreachable: "The gateway cannot be reached. Check that it runs, then try again.",
  somethingWrong: "That did not work: {why}", tooMany: "Too many requests with this key. The page goes on in {n} s.",

  loginTitle: "An API key is needed", loginWhy: "This gateway opens with a key. Whoever runs it makes one with: sonic-queue keys create NAME",
  loginLabel: "API key", loginHint: "It stays in this tab and is forgotten with it.", loginOpen: "Open",
  loginShape: "This is no key. A key begins with sq_ and has 55 characters.", loginOut: "Forget key", loginWrong: "The gateway does not know this key, or it was revoked.",
  refusedTitle: "This is not open to you", keyOf: "Key of {name}",

  jobs: "Jobs", instances: "Servers", batches: "Batches", dead: "Dead letter",
  queue: "Queue", waiting: "Waiting", running: "Running", retrying: "To retry", completed: "Completed", failed: "Failed",
  cancelled: "Cancelled", inDeadLetter: "Dead letter", tier: "Resolution", priorityClass: "Priority", normalClass: "Normal",
  oldest: "Oldest waits", nobodyWaits: "No job waits.", queueSummary: "{running} running, {waiting} waiting, {completed} completed, {failed} failed",
  alerts: "What needs attention",

  "state.queued": "Waiting", "state.running": "Running", "state.retrying": "Retrying", "state.completed": "Completed",
  "state.failed": "Failed", "state.cancelled": "Cancelled", "state.cancelling": "Being cancelled",
  "kind.bad input": "The input cannot be used", "kind.crash": "Its server died", "kind.out of memory": "Out of memory",
  "kind.device fault": "The card failed", "kind.below quality": "The video fell short", "kind.may pass": "It failed again and again",

  search: "Name or id", state: "State", batch: "Batch", anyState: "Every state", anyBatch: "Every batch", clearFilters: "Clear filters",
  jobsEmpty: "There are no jobs yet. Drop portraits and recordings anywhere on this page to make the first videos.",
  jobsNoMatch: "No job matches these filters.", lookedAt: "Looked through the latest {n} jobs; none more matches so far.", lookFurther: "Look further back",
  page: "Page {n}", loading: "Loading", attempt: "attempt {n}", left: "{time} left", submitted: "{time} ago", justNow: "just now",
  startedAgain: "{name} starts again.", wasCancelled: "{name} is cancelled.", isCancelling: "{name} is being cancelled by its server.", dropped: "{name} is out of the dead letter.",
  progressOf: "Progress of {name}", picture: "Portrait of {name}", noName: "(no name)",
  made: "{name} is finished.", hasFailed: "{name} has failed.",

  download: "Save the video", saveFile: "Save the file", loadingVideo: "Loading the video", noVideo: "The video cannot be played: {why}", elsewhere: "The video lies in another store.", openElsewhere: "Open it there", noCodec: "this browser cannot read it",
  warnings: "Warnings", quality: "Quality", report: "How it was made", asked: "What was asked for", times: "Times", error: "Error",
  id: "Id", template: "Template", size: "Size", seconds: "Took", resolution: "Resolution", degraded: "Made smaller than asked for, as the card's memory did not suffice.",
  submittedAt: "Submitted", startedAt: "Last start", endedAt: "Ended", attempts: "Starts", consent: "Consent", allGood: "Nothing to complain about.",
  "q.sync_offset_ms": "Sound against lips", "q.sync_correlation": "Lips follow the sound", "q.sync_is_sure": "Lip sync measured for sure",
  "q.open_in_silence": "Mouth open in silence", "q.flicker_percent": "Flicker", "q.face_lost_frames": "Frames without a face", "q.mouth_amplitude": "Opening of the mouth",
  "q.frames": "Frames", "q.seconds": "Length", "q.engine": "Engine", "q.falls_short": "Falls short", "q.fps": "Frames a second", "q.notes": "Notes", "q.reason": "Why this engine",
  yes: "yes", no: "no",

  instancesEmpty: "No ComfyUI server takes jobs now. Start one with SONIC_QUEUE_URL set to this queue.",
  ready: "Ready", idle: "Idle", busy: "Busy", draining: "Draining", unhealthy: "Unhealthy", memory: "Memory", memoryFree: "{free} of {total} free", memoryUnknown: "unknown",
  memoryTaken: "{taken} in use by all programs", cardLoad: "Card's load", tiers: "Resolutions", engines: "Engines", card: "Card", host: "Host", runningJob: "Running", nothing: "nothing",
  drain: "Drain", undrain: "Take jobs again", drainLabel: "Drain {name}", undrainLabel: "Let {name} take jobs again",
  isDraining: "{name} takes no new job.", isUndrained: "{name} takes jobs again.",

  batchesEmpty: "There are no batches. Several videos that are submitted together become one.", batchJobs: "Show jobs", cancelBatch: "Cancel the rest",
  cancelBatchSure: "Cancel {n} jobs of the batch {name}?", cancelBatchWhat: "Those that run are ended. Finished videos stay.", batchCancelled: "{cancelled} jobs cancelled, {cancelling} are being ended.",
  ofTotal: "{done} of {total} ended", batchOutcome: "{completed} completed, {failed} failed, {cancelled} cancelled, {unended} to do", keepBatch: "Keep it",

  deadEmpty: "The dead letter is empty. Jobs come here when their attempts are used up.", deadWhat: "Jobs that failed though another attempt might pass. Find the cause, then start them again.",
  retryAll: "Start all again", retriedAll: "{n} jobs start again.", deadMore: "The latest {n} are shown.",

  dropHere: "Drop to add", submitTitle: "New videos", submitWhat: "A portrait and a recording of the same name become one video: anna.png with anna.wav or anna_hello.wav. One portrait alone goes with every recording. A ZIP holds the same.",
  choose: "Drop files here, or choose them", willMake: "{n} videos will be made", willMakeOne: "1 video will be made", willMakeNone: "Nothing to make yet", leftOut: "{n} files are left out", leftOutOne: "1 file is left out",
  zipPairs: "{name}: {n} videos", zipManifest: "{name} holds a manifest, which says what is made.", zipUnread: "{name} cannot be looked into here; the gateway will say what it makes of it.",
  andMore: "and {n} more", remove: "Remove all", settings: "Settings", engine: "Engine", priority: "Priority", duration: "Seconds", durationHint: "Empty: the whole recording",
  seed: "Seed", seedHint: "Empty: the template's", resolutionHint: "Shorter side in pixels", consentHint: "Where the consent of the person shown is found", "priority.normal": "Normal", "priority.priority": "First",
  submit: "Submit", sending: "Sending {done} of {total}", sent: "{n} jobs are in the queue.", sentOne: "1 job is in the queue.", notSent: "{n} could not be sent", sendRest: "Send the rest again",
  showJobs: "Show them", zipLeftOut: "Left out of {name}", wrongNumber: "{what}: {low} to {high}, in steps of {step}.", wrongRange: "{what}: {low} to {high}.",
  "why.hidden": "Its name holds characters that cannot be shown; rename it.", "why.folder": "It is a folder; only files directly in the given folder are read.",
  "why.unknown": "'{suffix}' is no picture or sound that is known here.", "why.double": "{names} are {kind} of the same name; keep one of them.", pictures: "pictures", recordings: "recordings",
  "why.noPicture": "No picture has this name or the beginning of it.", "why.noSound": "No recording has this name or begins with it.", "why.empty": "The file is empty.",
  and: " and ",

  tabTitle: "Sonic Queue", tabGraph: "Submit this graph", tabGraphSent: "The portrait and the recording of this graph are in the queue.",
  tabEmpty: "There are no jobs yet. Submit this graph, or drop portraits and recordings here.",
  tabCanvas: "Put it on the canvas", tabOnCanvas: "{name} is on the canvas.", tabCounts: "Servers: {servers} · running: {running} · waiting: {waiting}",
  tabNobody: "No server takes jobs now · waiting: {waiting}",
  tabOff: "The queue is off: set the environment variable SONIC_QUEUE_URL to its address, such as redis://localhost:6379/0, and start ComfyUI again.",
  tabWrong: "The queue is off, as a setting is wrong: {why}",
  tabLost: "ComfyUI does not answer. What you see may be old. The tab keeps trying.",
  tabAway: "The queue's database does not answer. What you see may be old. The tab comes back by itself.",
};

const ZH = {
  title: "Sonic 队列", skip: "跳到内容", views: "视图", otherLanguage: "English", otherLanguageLabel: "Switch to English",
  newVideos: "新建视频", close: "关闭", cancel: "取消", retry: "重新开始", drop: "移除", play: "播放", again: "重试",
  details: "{name} 的详情", dismiss: "知道了", back: "返回", more: "更早", newer: "更新", first: "最新", all: "全部",

  live: "实时", connecting: "正在连接", lost: "未连接", away: "队列数据库没有响应",
  lostLong: "与网关的连接已断开，页面内容可能已过时，正在自动重连。",
  awayLong: "网关正常，但队列数据库没有响应，页面内容可能已过时。",
  unreachable: "无法连接网关，请确认它正在运行后重试。",
  somethingWrong: "操作未成功：{why}", tooMany: "此密钥请求过于频繁，{n} 秒后继续。",

  loginTitle: "需要 API 密钥", loginWhy: "此网关需要密钥。管理员用以下命令创建：sonic-queue keys create NAME",
  loginLabel: "API 密钥", loginHint: "只保存在本标签页，关闭即忘。", loginOpen: "进入",
  loginShape: "这不是密钥。密钥以 sq_ 开头，共 55 个字符。", loginOut: "忘记密钥", loginWrong: "网关不认识此密钥，或它已被撤销。",
  refusedTitle: "你无权访问", keyOf: "密钥：{name}",

  jobs: "任务", instances: "服务器", batches: "批次", dead: "死信",
  queue: "队列", waiting: "排队中", running: "处理中", retrying: "等待重试", completed: "已完成", failed: "失败",
  cancelled: "已取消", inDeadLetter: "死信", tier: "分辨率", priorityClass: "优先", normalClass: "普通",
  oldest: "最长等待", nobodyWaits: "没有排队的任务。", queueSummary: "处理中 {running}，排队 {waiting}，已完成 {completed}，失败 {failed}",
  alerts: "需要注意",

  "state.queued": "排队中", "state.running": "处理中", "state.retrying": "失败重试", "state.completed": "已完成",
  "state.failed": "失败", "state.cancelled": "已取消", "state.cancelling": "正在取消",
  "kind.bad input": "输入无法使用", "kind.crash": "服务器中断", "kind.out of memory": "显存不足",
  "kind.device fault": "显卡故障", "kind.below quality": "视频质量不足", "kind.may pass": "多次失败",

  search: "名称或编号", state: "状态", batch: "批次", anyState: "全部状态", anyBatch: "全部批次", clearFilters: "清除筛选",
  jobsEmpty: "还没有任务。把人像和录音拖到本页任意位置，即可制作第一批视频。",
  jobsNoMatch: "没有符合筛选条件的任务。", lookedAt: "已查看最近 {n} 个任务，暂无更多匹配。", lookFurther: "继续往前查找",
  page: "第 {n} 页", loading: "加载中", attempt: "第 {n} 次", left: "剩 {time}", submitted: "{time}前", justNow: "刚刚",
  startedAgain: "{name} 已重新开始。", wasCancelled: "{name} 已取消。", isCancelling: "服务器正在取消 {name}。", dropped: "{name} 已移出死信。",
  progressOf: "{name} 的进度", picture: "{name} 的人像", noName: "（未命名）",
  made: "{name} 已完成。", hasFailed: "{name} 失败了。",

  download: "保存视频", saveFile: "保存文件", loadingVideo: "正在加载视频", noVideo: "视频无法播放：{why}", elsewhere: "视频存放在其他存储中。", openElsewhere: "在那里打开", noCodec: "此浏览器无法读取",
  warnings: "警告", quality: "质量", report: "制作信息", asked: "请求参数", times: "时间", error: "错误",
  id: "编号", template: "模板", size: "大小", seconds: "用时", resolution: "分辨率", degraded: "显存不足，视频比要求的小。",
  submittedAt: "提交", startedAt: "最近开始", endedAt: "结束", attempts: "启动次数", consent: "授权编号", allGood: "没有发现问题。",
  "q.sync_offset_ms": "音画偏移", "q.sync_correlation": "口型与声音相关度", "q.sync_is_sure": "口型测量可靠",
  "q.open_in_silence": "静音时张嘴", "q.flicker_percent": "闪烁", "q.face_lost_frames": "无人脸帧数", "q.mouth_amplitude": "张嘴幅度",
  "q.frames": "帧数", "q.seconds": "时长", "q.engine": "引擎", "q.falls_short": "不足之处", "q.fps": "帧率", "q.notes": "说明", "q.reason": "引擎原因",
  yes: "是", no: "否",

  instancesEmpty: "目前没有 ComfyUI 服务器接任务。请设置 SONIC_QUEUE_URL 指向此队列并启动一台。",
  ready: "可用", idle: "空闲", busy: "忙碌", draining: "排空中", unhealthy: "异常", memory: "显存", memoryFree: "{total} 中可用 {free}", memoryUnknown: "未知",
  memoryTaken: "所有程序共占用 {taken}", cardLoad: "显卡负载", tiers: "分辨率", engines: "引擎", card: "显卡", host: "主机", runningJob: "正在处理", nothing: "无",
  drain: "排空", undrain: "恢复接单", drainLabel: "排空 {name}", undrainLabel: "让 {name} 恢复接单",
  isDraining: "{name} 不再接新任务。", isUndrained: "{name} 恢复接单。",

  batchesEmpty: "还没有批次。一起提交的多个视频组成一个批次。", batchJobs: "查看任务", cancelBatch: "取消其余",
  cancelBatchSure: "取消批次 {name} 中的 {n} 个任务？", cancelBatchWhat: "正在处理的会被终止，已完成的视频保留。", batchCancelled: "已取消 {cancelled} 个，正在终止 {cancelling} 个。",
  ofTotal: "{total} 个中已结束 {done} 个", batchOutcome: "完成 {completed}，失败 {failed}，取消 {cancelled}，待办 {unended}", keepBatch: "保留",

  deadEmpty: "死信为空。用尽重试次数的任务会到这里。", deadWhat: "这些任务失败了，但再试也许会成功。找到原因后重新开始。",
  retryAll: "全部重新开始", retriedAll: "{n} 个任务重新开始。", deadMore: "显示最近 {n} 个。",

  dropHere: "松开即可添加", submitTitle: "新建视频", submitWhat: "同名的人像和录音组成一个视频：anna.png 配 anna.wav 或 anna_hello.wav。只有一张人像时，它配所有录音。ZIP 同理。",
  choose: "把文件拖到这里，或点击选择", willMake: "将制作 {n} 个视频", willMakeOne: "将制作 1 个视频", willMakeNone: "还没有可制作的", leftOut: "{n} 个文件不使用", leftOutOne: "1 个文件不使用",
  zipPairs: "{name}：{n} 个视频", zipManifest: "{name} 含清单文件，按清单制作。", zipUnread: "{name} 无法在此查看，由网关判断。",
  andMore: "另有 {n} 个", remove: "全部移除", settings: "设置", engine: "引擎", priority: "优先级", duration: "秒数", durationHint: "留空：整段录音",
  seed: "随机种子", seedHint: "留空：模板默认", resolutionHint: "短边像素", consentHint: "在哪里能找到本人的授权", "priority.normal": "普通", "priority.priority": "优先",
  submit: "提交", sending: "正在发送 {done}/{total}", sent: "{n} 个任务已进入队列。", sentOne: "1 个任务已进入队列。", notSent: "{n} 个未能发送", sendRest: "重新发送其余",
  showJobs: "查看", zipLeftOut: "{name} 中未使用", wrongNumber: "{what}：{low} 到 {high}，步长 {step}。", wrongRange: "{what}：{low} 到 {high}。",
  "why.hidden": "文件名含无法显示的字符，请改名。", "why.folder": "这是文件夹，只读取所给文件夹中的文件。",
  "why.unknown": "“{suffix}”不是可识别的图片或声音。", "why.double": "{names} 是同名的{kind}，请只留一个。", pictures: "图片", recordings: "录音",
  "why.noPicture": "没有同名或名称为其开头的图片。", "why.noSound": "没有同名或以此开头的录音。", "why.empty": "文件是空的。",
  and: "和",

  tabTitle: "Sonic 队列", tabGraph: "提交当前工作流", tabGraphSent: "当前工作流的人像和录音已进入队列。",
  tabEmpty: "还没有任务。提交当前工作流，或把人像和录音拖到这里。",
  tabCanvas: "放到画布", tabOnCanvas: "{name} 已放到画布。", tabCounts: "服务器 {servers} · 处理中 {running} · 排队 {waiting}",
  tabNobody: "目前没有服务器接任务 · 排队 {waiting}",
  tabOff: "队列未开启：请将环境变量 SONIC_QUEUE_URL 设为队列地址（如 redis://localhost:6379/0），然后重新启动 ComfyUI。",
  tabWrong: "队列未开启，因为有一项设置不正确：{why}",
  tabLost: "ComfyUI 没有响应，内容可能已过时，正在自动重连。",
  tabAway: "队列数据库没有响应，内容可能已过时，恢复后会自动继续。",
};

const STAGES = {
  Waiting: "等待", "Load portrait": "读取人像", "Load voice": "读取录音", "Find the face": "定位人脸", "Make frames": "生成画面",
  Finish: "后期处理", Save: "保存", "Load Sonic": "加载模型", Sample: "采样", Decode: "解码",
};

// By the gateway's word for what is wrong (the end of a problem's type); {why} is its own sentence, which is in English.
const PROBLEMS = {
  "bad-request": "网关无法读取这个请求：{why}", unauthorized: "需要有效的 API 密钥。", forbidden: "这个密钥没有执行此操作的权限。",
  "not-found": "找不到它，可能已不再保留。", "too-slow": "上传太慢，已被中断，请重试。", conflict: "任务当前的状态不允许这样做：{why}",
  "not-finished": "还没有视频：{why}", gone: "视频已不在原处，或网关无法读取。", "too-large": "文件太大：{why}",
  "unsupported-media-type": "不接受这种内容：{why}", invalid: "请求有误：{why}",
  "idempotency-key-reused": "这个请求编号已用于另一个请求。", "backlog-full": "这个密钥未完成的任务已达上限，请稍后再提交。",
  internal: "网关内部出错，请查看它的日志。", unavailable: "队列的数据库现在无法访问，请稍后再试。", "no-room": "上传文件的磁盘已满，请稍后再试。",
};

const TEXTS = { en: EN, zh: ZH };
const CHOSEN = "sonic-queue-language";
let language = chosenLanguage();

function chosenLanguage() {
  const kept = sessionStorage.getItem(CHOSEN);
  if (kept in TEXTS) return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export const lang = () => (language === "zh" ? "zh-CN" : "en");

export function switchLanguage() {
  language = language === "en" ? "zh" : "en";
  sessionStorage.setItem(CHOSEN, language);
}

/** Take a language, "en" or "zh", where another program has asked for it. */
export const speak = (name) => (language = name in TEXTS ? name : "en");

/** A text with its {places} filled. */
export function t(name, values = {}) {
  const text = TEXTS[language][name] ?? EN[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (place, key) => (key in values ? String(values[key]) : place));
}

export const has = (name) => name in EN;
export const stageText = (stage) => (language === "zh" ? (STAGES[stage] ?? stage) : stage);
/** What the gateway says is wrong. kind: its word for it; why: its own sentence. */
export const problemText = (kind, why) => (language === "zh" ? (PROBLEMS[kind] ?? why).replace("{why}", () => why) : why);
/** Names of texts that one language has and the other has not. */
export const unevenTexts = () => [...Object.keys(EN), ...Object.keys(ZH)].filter((name) => !(name in EN && name in ZH));

const UNITS = { en: [" s", " min", " h", " d"], zh: [" 秒", " 分钟", " 小时", " 天"] };

/** A number of seconds for a person: 8 s, 3 min, 2 h, 5 d. */
export function duration(seconds) {
  const [s, min, h, d] = UNITS[language];
  const left = Math.max(0, seconds);
  if (left < 90) return `${Math.round(left)}${s}`;
  if (left < 5400) return `${Math.round(left / 60)}${min}`;
  if (left < 129_600) return `${Math.round(left / 3600)}${h}`;
  return `${Math.round(left / 86_400)}${d}`;
}

export function ago(time, now = Date.now()) {
  const seconds = (now - Date.parse(time)) / 1000;
  return seconds < 5 ? t("justNow") : t("submitted", { time: duration(seconds) });
}

export const number = (value) => new Intl.NumberFormat(lang()).format(value);
export const moment = (time) =>
  new Intl.DateTimeFormat(lang(), { dateStyle: "medium", timeStyle: "medium" }).format(new Date(time));

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let [at, left] = [0, count];
  while (left >= 1000 && at < units.length - 1) [at, left] = [at + 1, left / 1000];
  return `${new Intl.NumberFormat(lang(), { maximumFractionDigits: left < 10 && at ? 1 : 0 }).format(left)} ${units[at]}`;
}
