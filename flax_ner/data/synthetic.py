"""Generate a synthetic Chinese data set with CLUENER's ten categories, for trying things without a download.

Names are composed of parts and inserted into sentence patterns. No name of dev occurs in train, and
about half of them have a part that no name of train has. A model must therefore learn from the
composition of names and from their context: only the sentence tells whether 《...》 is a book, a movie
or a game. The quotation marks 《》 belong to the entity.
"""

import itertools
import re
from functools import cache

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example

SPLITS = ("train", "dev")
MAX_LENGTH = 50  # characters of a sentence, as in CLUENER

# Parts marked * are reserved for dev. Their characters occur in train, but in other combinations.
SURNAMES = "王 李 张 刘 陈 杨 赵 黄 周 吴 徐 孙 胡 朱 高 林 何 郭 马 罗 梁 宋 郑 谢 韩 唐 冯 于 董 萧 欧阳 司马"
GIVEN = "伟 芳 娜 敏 静 丽 强 磊 军 洋 勇 艳 杰 涛 明 超 霞 平 刚 文 建国 志强 晓明 海燕 丽华 子轩 雨桐 思远 浩然 嘉怡 国栋 春梅 立新 永康 志明* 海丽* 建伟* 晓文* 思怡* 永强*"
PLACES = "东海 青山 南江 北川 临河 安宁 长岭 白沙 金山 云台 丰县 石门 新港 平湖 广源 西林 凤阳 龙泉 宜城 清河 永定 和平 海宁 泰安 东川* 青河* 临海* 新安*"
ADDRESS_ENDS = "市 省 县 区 镇 村 路 大街 新区 开发区 火车站附近"
BRANDS = "华信 天宇 联创 盛达 恒通 金源 宏远 中科 安泰 博雅 瑞丰 凯盛 新锐 远景 鼎盛 汇通 百川 星辰 万和 大地 华泰* 天信* 金远* 恒达*"
COMPANY_ENDS = "科技 集团 银行 证券 汽车 电子 地产 保险 网络公司 股份有限公司 传媒 制药"
GOVERNMENT_ENDS = "市政府 公安局 教育局 市法院 税务局 海关 卫生局 市委 环保局 县政府 检察院 交通局"
TEAM_ENDS = "队 俱乐部 足球队 女排 协会 基金会 联合会 乐团 大学 中学 志愿者协会 商会"
SCENE_ENDS = "公园 寺 古城 湖 风景区 博物馆 瀑布 植物园 塔 海滩 国家森林公园 山庄"
RANKS = "副 首席 高级 资深 执行 常务 代理 助理 第一 名誉"
TITLES = "总裁 经理 教练 主任 局长 编辑 教授 分析师 工程师 律师 记者 院长 秘书 董事长 设计师 研究员 教师* 主编* 工程员*"
ADJECTIVES = "沉默 黑暗 最后 永恒 失落 红色 遥远 孤独 神秘 金色 燃烧 无声 疯狂 美丽 冰冷 破碎"
NOUNS = "海岸 王国 城堡 春天 战争 花园 天空 森林 传说 骑士 少年 记忆 河流 时代 火焰 岛屿 帝国 旅程 战士* 春城* 花海*"

# {category} is replaced by a name of that category, every other slot by one of FILLERS.
PATTERNS = """
{name}认为，今年的市场{surely}不容乐观。
{date}，{company}宣布与{company}合作，{name}出席了仪式。
{company}的{position}{name}在{address}接受了采访。
他从{company}辞职以后，在{address}开了一家小店。
{address}的房价{date}上涨了{few}%，引起关注。
记者{date}从{government}获悉，新规定将于{soon}实行。
{government}{position}{name}表示，{surely}要加强管理。
据{government}统计，{address}共有{number}家企业停产。
{organization}{date}以{few}比1战胜了{organization}。
{organization}的{position}{name}赛后说，球员们{surely}尽力了。
球迷们在{address}等候{organization}归来。
我们一家人{date}去了{scene}，风景{really}不错。
{scene}的门票涨到{number}元，游客{really}不满。
从{address}坐车到{scene}要{few}分钟。
到{address}旅游，{scene}和{scene}都值得一看。
{name}写的{book}{date}出版，首印{number}册。
这本{book}我读了{few}遍，作者{name}{surely}有才华。
{book}是一部长篇小说，由{organization}推荐阅读。
书店里{book}卖得{really}好，读者排起了队。
他一边读{book}，一边做笔记。
导演{name}的新片{movie}{date}上映。
{movie}的票房突破{number}万，影院座无虚席。
{name}在影片{movie}中扮演一名{position}。
观众看完{movie}走出影院，{really}感动。
电影节上，{movie}获得了最佳摄影奖。
玩家在{game}里升到{few}级才能打副本。
{company}开发的网络游戏{game}{date}开始公测。
{game}的新资料片增加了{few}张地图，玩家{really}期待。
他在网吧玩{game}，通关用了{few}小时。
手柄操作让{game}的战斗{really}流畅。
{name}被任命为{company}{position}，{soon}上任。
作为{position}，{name}{really}关心员工。
{position}{name}和{position}{name}一同来到{address}。
公司正在招聘{position}，月薪{number}元。
一位{position}告诉记者，情况{really}复杂。
{organization}{date}在{address}举行了募捐活动。
{name}是{organization}的毕业生，现在{address}工作。
{government}与{organization}联合在{scene}举办展览。
{company}的股票{date}下跌{few}%，投资者{really}担心。
分析人士{name}指出，{company}和{company}的竞争{really}激烈。
{name}、{name}和{name}{date}一起爬山。
警方在{address}抓获了嫌疑人{name}。
{government}对{company}罚款{number}万元。
{name}来自{address}，{date}考入{organization}。
家住{address}的{name}{really}喜欢{scene}。
OK，{number}楼说得对，{surely}应该这样。
{date}天气{really}好，适合出门走走。
{soon}起，油价上调{few}元，司机们{really}无奈。
{date}买的手机有WiFi，待机{number}小时。
如果孩子烧了{few}天，{surely}要去医院。
大家{surely}要先做完{few}道题，再去打球。
专家{date}提醒，冬天{surely}要注意保暖。
改编自{book}的影片{movie}{date}上映，读者{really}高兴。
电影{movie}改编自游戏{game}，玩家{really}失望。
{name}既喜欢读{book}，也喜欢玩{game}。
{scene}旁边就是{company}的总部。
{date}，{name}捐给{organization}{number}本书。
{position}们在{scene}开会，讨论{address}的规划。
{government}位于{address}{number}号。
{organization}宣布聘请{name}担任{position}。
有{scene}的攻略吗？我们{soon}从{address}出发。
QQ群里问：{game}的副本怎么打？
{name}翻译的{book}加印{number}册。
{company}迁往{address}，{position}{name}致辞。
"""
FILLERS = {
    "date": "昨天 前天 上周 上月 去年 今年 近日 3月5日 2008年 12日上午",
    "soon": "明年 下周 下个月 本月底 6月1日 20日",
    "few": "2 3 5 8 12 20 30 45",
    "number": "60 100 128 360 500 800 2000",
    "really": "确实 非常 比较 相当 十分 的确 特别 格外",  # before gradable adjectives and verbs
    "surely": "确实 一定 的确 仍然 依然 还是 恐怕 当然",  # before other predicates
}


def synthetic(split: str, count: int, seed: int = 0) -> list[Example]:
    """Generate a split of the synthetic data set. The same arguments give the same sentences.

    Args:
        split: "train" or "dev"; they share no names and no sentences.
        count: number of sentences.
        seed: seed of the random choices.

    Returns:
        `count` labelled examples.

    Raises:
        UserError: an unknown split, or a count below 1.
    """
    if split not in SPLITS:
        raise UserError(f"split: {split!r} is unknown. Choose one of {', '.join(SPLITS)}.")
    if count < 1:
        raise UserError(f"count: must be at least 1, but is {count}.")
    random = np.random.default_rng((seed, SPLITS.index(split)))
    choices = _all_names()[split] | {slot: words.split() for slot, words in FILLERS.items()}
    patterns = [re.split(r"\{(\w+)\}", line) for line in PATTERNS.split()]

    def fill(pattern: list[str]) -> tuple[str, list[Entity]]:
        literals = iter(pattern)
        text, entities = next(literals), []
        for slot, literal in zip(literals, literals, strict=True):
            filling = choices[slot][random.integers(len(choices[slot]))]
            if slot not in FILLERS:
                entities.append(Entity(slot, len(text), len(text) + len(filling), filling))
            text += filling + literal
        return text, entities

    examples: list[Example] = []
    for number in range(1, count + 1):
        pattern = patterns[random.integers(len(patterns))]
        # Names separate the splits; a sentence without names is assigned by its own characters.
        # The limit turns a pattern that never fits into StopIteration instead of an endless loop.
        text, entities = next(
            (text, entities)
            for text, entities in (fill(pattern) for _ in range(1000))
            if len(text) <= MAX_LENGTH and (entities or _assigned_split(text) == split)
        )
        examples.append(Example(text, tuple(entities), f"synthetic-{split}:{number}"))
    return examples


def _assigned_split(text: str) -> str:
    """Return the split that a name or sentence is assigned to, independent of its category."""
    return "dev" if "*" in text or sum(map(ord, text)) % 5 == 0 else "train"


@cache
def _all_names() -> dict[str, dict[str, list[str]]]:
    """Return all names by split and category."""

    def compose(*parts: str) -> list[str]:
        return ["".join(names) for names in itertools.product(*(p.split() for p in parts))]

    pairs = map("".join, itertools.permutations(NOUNS.split(), 2))
    titles = [f"《{name}》" for name in (*compose(ADJECTIVES, "的", NOUNS), *pairs)]
    names = {
        "address": compose(PLACES, ADDRESS_ENDS),
        "book": titles,
        "company": compose(BRANDS, COMPANY_ENDS) + compose(PLACES, COMPANY_ENDS),
        "game": titles,
        "government": compose(PLACES, GOVERNMENT_ENDS),
        "movie": titles,
        "name": compose(SURNAMES, GIVEN),
        "organization": compose(PLACES, TEAM_ENDS) + compose(BRANDS, TEAM_ENDS),
        "position": compose(RANKS, TITLES),
        "scene": compose(PLACES, SCENE_ENDS),
    }
    return {
        split: {
            category: [name.replace("*", "") for name in pool if _assigned_split(name) == split]
            for category, pool in names.items()
        }
        for split in SPLITS
    }
