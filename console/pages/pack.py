"""3D view of a battery pack: one box per series group of cells, coloured by temperature or voltage."""

from __future__ import annotations

from nicegui import ui

from console.connection_pool import StoreRow
from console.pack_layout import UNKNOWN, PackCells, Quantity, box_count, box_positions, pack_cells
from console.pages.components import button, div, press, set_text, text

#: Camera positions for a pack of twelve boxes in a row.
_VIEWS = {"Tilt": (2.5, -6.3, 5.4), "Top": (0.0, -0.01, 8.2), "Side": (0.0, -8.0, 1.2)}


class PackView:
    """3D scene with legend and controls; `show` updates it to a battery row."""

    def __init__(self, row: StoreRow) -> None:
        self._row = row
        self._quantity: Quantity = "temperature"
        self._colours: list[str] = []
        self._labels: list[str] = []
        with div("row-wrap").style("justify-content:space-between;margin-bottom:8px"):
            with div("seg").props('role="group" aria-label="coloured by"'):
                self._choices = {
                    "temperature": button("Temperature", lambda: self._choose("temperature"), pressed=True, classes=""),
                    "voltage": button("Voltage", lambda: self._choose("voltage"), pressed=False, classes=""),
                }
            with div("seg").props('role="group" aria-label="camera position"'):
                for name in _VIEWS:
                    button(name, lambda _, view=name: self._set_camera(view), classes="")
        with div("scene-box"):
            self._scene = ui.scene(width=640, height=400, grid=False, fps=20)
            self._scene.classes("w-full").props('role="img" aria-label="cells of the pack"')
            tip = div("scene-tip").props(f'id="tip-{self._scene.id}"')
            tip.style("left:0;top:0")
        self._build(row)
        self._set_camera("Tilt")
        ui.run_javascript(f"twin.hover({self._scene.id}, 'tip-{self._scene.id}')")
        with div("scale"):
            self._scale_title = text("", tag="b")
            ui.element("i")
            self._scale_labels = [text("", tag="span") for _ in range(3)]
        self._note = text("", "muted small")
        self.show(row)

    def show(self, row: StoreRow) -> None:
        """Update colours and labels; only changed boxes are sent to the browser."""
        self._row = row
        if box_count(row) != len(self._boxes):  # the number of cells became known
            self._scene.clear()
            self._build(row)
        cells = pack_cells(row, self._quantity)
        for element, share in zip(self._scale_labels, (0.0, 0.5, 1.0), strict=True):
            set_text(element, cells.at(share) if cells.values else "")
        set_text(self._scale_title, f"{self._quantity.capitalize()}, {cells.unit}")
        set_text(self._note, cells.note)
        colours, labels = self._appearance(cells)
        calls = self._material_calls(colours) + self._name_calls(labels)
        self._colours, self._labels = colours, labels
        if calls:
            # One message for all boxes instead of one per box.
            self._scene.run_method("run_methods", calls)

    def _build(self, row: StoreRow) -> None:
        """Create the boxes with methods of the scene, which repeats them after a reconnect of the browser."""
        with self._scene as scene:
            self._boxes = [
                scene.box(0.86, 0.8, 1.15).move(0.95 * x, 0.9 * y, 0.0) for x, y in box_positions(box_count(row))
            ]
        cells = pack_cells(row, self._quantity)
        self._colours, self._labels = self._appearance(cells)
        for box, colour, label in zip(self._boxes, self._colours, self._labels, strict=True):
            box.material(colour).with_name(label)

    def _appearance(self, cells: PackCells) -> tuple[list[str], list[str]]:
        """Colour and label of each box; boxes without a value are grey."""
        known = range(len(cells.values))
        missing = len(self._boxes) - len(known)
        colours = [*(cells.colour(index) for index in known), *[UNKNOWN[0]] * missing]
        return colours, [*(cells.label(index) for index in known), *[UNKNOWN[1]] * missing]

    def _material_calls(self, colours: list[str]) -> list[list[object]]:
        return [
            ["material", box.id, new, 1.0, "front"]
            for box, new, old in zip(self._boxes, colours, self._colours, strict=True)
            if old != new
        ]

    def _name_calls(self, labels: list[str]) -> list[list[object]]:
        return [
            ["name", box.id, new] for box, new, old in zip(self._boxes, labels, self._labels, strict=True) if old != new
        ]

    def _choose(self, quantity: Quantity) -> None:
        self._quantity = quantity
        for name, choice in self._choices.items():
            press(choice, name == quantity)
        self.show(self._row)

    def _set_camera(self, view: str) -> None:
        x, y, z = _VIEWS[view]
        self._scene.move_camera(x=x, y=y, z=z, look_at_x=0, look_at_y=0, look_at_z=0, duration=0.3)
