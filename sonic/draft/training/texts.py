# ruff: noqa: E501  # letters of other scripts are wider than they count
"""What is said: short plain sentences, and word by word shuffled so that every sound meets every other."""

from __future__ import annotations

import random

ENGLISH = """
The big brown bear moved past my mother before breakfast. Have you ever visited a village by the river in winter?
Five brave women found a very old map of the valley. Please put the purple paper back in the box above my bed.
We shall see whether the weather will be better tomorrow. He thought about the three things that she had said.
A young man with a loud voice asked for more hot food. Few people know how this garden was made so beautiful.
Maybe Bob and Pam will come for supper if the boat arrives in time. I would rather stay at home and read a good book.
The judge, who was a just and gentle person, changed his mind. Children were laughing and jumping on the wooden bridge.
Open the window and let the fresh morning air come into the room. My favourite uncle always wore a warm woollen coat.
How many apples do you want to buy at the market today? Nobody could remember where the family used to live.
She owned a small shop on the corner, near the church. It was impossible to measure the pressure of the vapour.
Father often drove us far over the hills, above the foggy fields. The ship's crew saw a huge wave, and then a calm sea.
You must be quick, or the food will be gone. Our house has four rooms, two doors and a high roof.
Some of the most important problems have the simplest answers. Many members of the public were moved by her performance.
The company will improve its methods before the end of the month. Everybody believed that the baby was fast asleep.
Pull the rope, push the button, and wait for the bell. Music and movement make a moment memorable.
They have been working for a long time to finish the job. What a wonderful surprise to meet you here again!
The poor boy had lost both of his shoes in the mud. A bird in the hand is worth two in the bush.
Could you tell me the way to the station, please? Thank you very much, that is extremely kind of you.
The first voyage of the young prince began in the month of March. He was both proud and ashamed of his former life.
Perhaps it would have been wiser to give them half of the money. No amount of argument could ever persuade his wife.
I measured the length of the path with a piece of string. The old clock above the fireplace has stopped at half past five.
Look at the bright moon; it is almost full tonight. Rough winds do shake the lovely buds of May.
Whenever the phone rang, the puppy barked and ran about. Seven silver spoons lay on a thin white plate.
The teacher showed us a picture of a famous mountain. Boil the water, add some pepper, and stir it well.
Every evening a flock of geese flew over the frozen pond. He promised to leave the property to his own family.
Good manners cost nothing, but they are valuable. The museum is open from Wednesday to Saturday.
It may be possible to combine the two approaches. Fifty thousand visitors saw the film on the opening weekend.
"""

ENGLISH_UNSEEN = """
Above the harbour, a lamp burned through the foggy night. My brother plays the violin and paints big pictures of boats.
Whoever wins the prize will have to give a speech. Both of them were born in the same village by the sea.
Can we find a cheaper place to park the van? The farmer fed the pigs and mended a broken fence.
A warm breeze moved the leaves of the apple tree. Please remember to bring your own cups, forks and knives.
She chose a yellow umbrella because the sky looked grey. Our problem was much more difficult than we first believed.
"""

OTHERS = {
    "cmn": "你好，我们明天去北京。今天的天气非常好，我们出去走走吧。妈妈买了八个苹果和一包面包。他每天早上跑步，晚上看书。请把门关上，外面风很大。"
    "学校旁边有一个漂亮的公园，朋友们常常在那里见面。飞机快要起飞了，别忘了你的行李。我不明白这个问题，能不能再说一遍？爸爸喜欢喝茶，我喜欢喝咖啡。"
    "保护环境是每个人的责任。中国有很多民族和方言。这部电影真有意思，我想再看一次。老师帮助我们学习普通话。白马跑得比黑马快。冬天下雪，夏天下雨。",
    "es": "El perro pequeño bebe agua fresca en el patio. Mi abuela prepara una sopa buenísima para toda la familia. Vamos a viajar "
    "por el campo el próximo fin de semana. ¿Puedes abrir la ventana, por favor? Los pájaros vuelan sobre el bosque verde. Nunca había "
    "visto un pueblo tan bonito. El hombre compró pan, mantequilla y vino. Me gustaría aprender a tocar la guitarra. Hubo mucha lluvia "
    "durante el viaje. Ella vive cerca de la plaza mayor, junto al mercado.",
    "fr": "Bonjour, je voudrais un peu de pain et du beurre. Ma mère habite une petite maison au bord de la mer. Nous avons vu un beau "
    "film hier soir. Le bateau part à cinq heures du matin. Il faut fermer la porte avant de partir. Quelle heure est-il, s'il vous "
    "plaît? Beaucoup de gens pensent que la vie était plus simple. Un homme jeune marche sous la pluie. Les feuilles brunes tombent en "
    "automne. Je ne peux pas venir demain, mais peut-être dimanche.",
    "de": "Guten Morgen, wie geht es Ihnen heute? Der Bauer bringt frische Äpfel und Birnen auf den Markt. Wir fahren am Wochenende in "
    "die Berge. Meine Mutter bäckt jeden Freitag einen Pflaumenkuchen. Können Sie mir bitte helfen, das Buch zu finden? Über den Wolken "
    "muss die Freiheit wohl grenzenlos sein. Viele Menschen hoffen auf besseres Wetter. Er öffnete vorsichtig die alte Tür. Fünf böse "
    "Buben werfen Bälle. Ich möchte gern eine Tasse Kaffee mit Milch.",
    "pt-br": "Bom dia, meu amigo, como vai você? A menina bonita comprou um vestido vermelho. Nós vamos para a praia amanhã de manhã. O "
    "pão está muito bom e o café também. Minha avó mora numa fazenda longe da cidade. Quero viver perto do mar. Os meninos brincam com "
    "a bola no pátio. Ele abriu a porta e chamou o cachorro. É preciso fazer o trabalho antes do fim do mês.",
    "nl": "Goedemorgen, hoe gaat het vandaag met je? Mijn buurman heeft een nieuwe fiets gekocht. Wij wonen in een klein huis bij de "
    "rivier. De baby slaapt op dit moment boven. Vrijdag gaan we met de boot naar het eiland. Het boek ligt op de tafel naast het raam. "
    "Veel mensen vinden het weer vandaag prachtig. Wil je misschien een kopje koffie met melk?",
    "sv": "God morgon, hur mår du i dag? Min bror bor i en liten by vid havet. Vi ska äta middag klockan fem. Barnen leker i parken bakom "
    "huset. Fåglarna flyger över den blå sjön. Jag vill gärna ha en kopp kaffe med mjölk. Boken handlar om en ung man från norr. "
    "Det blev mörkt och vi gick hem.",
    "tr": "Günaydın, bugün nasılsın? Babam her sabah gazete okur. Küçük çocuk bahçede top oynuyor. Yarın vapurla adaya gideceğiz. Bu "
    "kitabı çok beğendim. Pencereyi açabilir misin lütfen? Büyük bir bulut güneşi kapattı. Annem bize mercimek çorbası pişirdi. "
    "Böyle güzel bir köy hiç görmedim.",
    "ru": "Доброе утро, как у вас дела? Моя бабушка живёт в маленькой деревне. Завтра мы поедем на море всей семьёй. Мальчик купил "
    "большой мяч и новую книгу. Пожалуйста, откройте окно. Вечером было очень темно и тихо. Птицы летят над полем. Я люблю пить чай с "
    "мёдом. В этом городе много старых домов.",
    "hi": "नमस्ते, आप कैसे हैं? मेरा भाई बाज़ार से फल और सब्ज़ी लाया। हम कल सुबह गाँव जाएँगे। माँ ने बहुत अच्छा खाना बनाया। बच्चे मैदान में खेल रहे हैं। "
    "यह किताब मुझे पसंद है। कृपया दरवाज़ा बंद कर दीजिए। बारिश के बाद आसमान साफ़ हो गया। पिताजी अख़बार पढ़ते हैं।",
    "ja": "おはようございます、げんきですか。わたしのははは、ちいさなむらにすんでいます。あしたともだちとうみへいきます。このほんはとてもおもしろいです。"
    "まどをあけてください。こどもたちがこうえんであそんでいます。ふゆのよるはさむくてながい。パンとミルクをかいました。へやのなかはしずかでした。",
    "ko": "안녕하세요, 만나서 반갑습니다. 우리 어머니는 작은 마을에 살아요. 내일 친구와 바다에 갈 거예요. 이 책은 정말 재미있어요. 창문을 좀 열어 주세요. "
    "아이들이 공원에서 놀고 있습니다. 비가 와서 우산을 샀어요. 아버지는 매일 아침 신문을 봅니다.",
    "fi": "Hyvää huomenta, mitä sinulle kuuluu? Mummo asuu pienessä kylässä meren rannalla. Pojat pelaavat palloa pihalla. Huomenna menemme "
    "veneellä saareen. Tämä kirja on hyvin mielenkiintoinen. Voisitko avata ikkunan? Pöydällä on leipää, voita ja kahvia. Yöllä satoi lunta.",
    "hu": "Jó reggelt kívánok, hogy vagy ma? A nagymamám egy kis faluban él. Holnap hajóval megyünk a szigetre. A fiú vett egy új könyvet. "
    "Kérem, nyissa ki az ablakot. Sok ember szereti a meleg levest. A madarak a folyó fölött repülnek. Minden péntek este moziba járunk.",
    "el": "Καλημέρα, τι κάνετε σήμερα; Η μητέρα μου μένει σε ένα μικρό χωριό. Αύριο θα πάμε με το πλοίο στο νησί. Το βιβλίο είναι πολύ "
    "ωραίο. Ανοίξτε το παράθυρο, παρακαλώ. Τα παιδιά παίζουν μπάλα στην πλατεία. Θέλω έναν καφέ με γάλα. Φυσάει δυνατός βοριάς.",
    "cs": "Dobré ráno, jak se dnes máte? Moje babička bydlí v malé vesnici. Zítra pojedeme vlakem k moři. Chlapec koupil novou knihu a "
    "balon. Otevřete prosím okno. Ptáci letí nad polem. Mám rád čaj s medem. V tomto městě je mnoho starých domů.",
    "id": "Selamat pagi, apa kabar hari ini? Ibu saya membeli buah dan sayur di pasar. Besok kami pergi ke pulau dengan perahu. Buku ini "
    "sangat menarik. Tolong buka jendela itu. Anak-anak bermain bola di halaman. Saya mau minum kopi dengan susu. Hujan turun sepanjang malam.",
    "vi": "Xin chào, hôm nay bạn có khỏe không? Mẹ tôi mua cá và rau ở chợ. Ngày mai chúng tôi đi biển bằng tàu. Quyển sách này rất hay. "
    "Làm ơn mở cửa sổ. Trẻ em đang chơi bóng ngoài sân. Tôi muốn uống một ly cà phê sữa. Buổi tối trời mưa to.",
    "ar": "صباح الخير، كيف حالك اليوم؟ تسكن جدتي في قرية صغيرة. سنذهب غدا إلى البحر. اشترى الولد كتابا جديدا. افتح النافذة من فضلك. "
    "يلعب الأطفال بالكرة في الحديقة. أحب القهوة مع الحليب. بعد المطر أصبح الجو جميلا.",
}  # fmt: skip

UNSEEN = {
    "it": "Buongiorno, come stai oggi? Mia nonna abita in un piccolo paese vicino al mare. Domani andremo in barca fino all'isola. Il bambino "
    "ha comprato un libro nuovo. Può aprire la finestra, per favore? Bevo sempre un buon caffè dopo pranzo. Gli uccelli volano sopra il "
    "bosco. La musica di quel film era bellissima. Vorrei vivere in campagna con la mia famiglia.",
    "pl": "Dzień dobry, jak się pan dzisiaj czuje? Moja babcia mieszka w małej wsi. Jutro popłyniemy łodzią na wyspę. Chłopiec kupił nową "
    "książkę. Proszę otworzyć okno. Ptaki lecą nad polem. Lubię pić herbatę z miodem. W tym mieście jest dużo starych domów. "
    "Wieczorem było bardzo ciemno i cicho.",
}  # fmt: skip

_ENDS = ".?!。？！؟।;；"
_SOLID = {"cmn", "ja"}  # written without spaces


def sentences(text: str) -> list[str]:
    """Cut at full stops, which stay."""
    out, current = [], ""
    for letter in " ".join(text.split()):
        current += letter
        if letter in _ENDS:
            out.append(current.strip())
            current = ""
    return out + ([current.strip()] if current.strip() else [])


def something_to_say(text: str, language: str, chance: random.Random, extra_words: list[str] | None = None) -> str:
    """A sentence as it stands, or five to twelve of the text's words in any order, some of them from ``extra_words``."""
    whole = sentences(text)
    if chance.random() < 0.3:
        return chance.choice(whole)
    if language in _SOLID:
        letters = [letter for sentence in whole for letter in sentence if letter.isalpha()]
        groups = ["".join(chance.choices(letters, k=chance.randint(2, 5))) for _ in range(chance.randint(2, 5))]
        return "，".join(groups)
    words = [word.strip(_ENDS + ",") for sentence in whole for word in sentence.split()]
    picked = chance.choices(words, k=chance.randint(5, 12))
    if extra_words:
        picked = [chance.choice(extra_words) if chance.random() < 0.5 else word for word in picked]
    return " ".join(word + ("," if chance.random() < 0.1 else "") for word in picked) + "."
